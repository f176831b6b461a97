//! The server's process as the system sees it: its time and its memory.

/// A process on this machine.
#[derive(Clone, Copy, Debug)]
pub struct ServerProcess {
    pid: u32,
}

impl ServerProcess {
    /// By its id.
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// User and system time that it has used, seconds.
    pub fn cpu_s(self) -> Result<f64, String> {
        let text = self.read("stat")?;
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every Linux that the hub runs on.
        Ok(ticks as f64 / 100.0)
    }

    /// Memory that it holds, bytes.
    pub fn resident_bytes(self) -> Result<u64, String> {
        let text = self.read("status")?;
        let field = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = field.and_then(|field| field.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| format!("process {} says nothing of its memory", self.pid))
    }

    fn read(self, name: &str) -> Result<String, String> {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid))
            .map_err(|error| format!("process {} cannot be looked at: {error}", self.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_and_memory() {
        let process = ServerProcess::new(std::process::id());
        let begin = process.cpu_s().unwrap();
        while process.cpu_s().unwrap() < begin + 0.02 {}
        assert!(process.resident_bytes().unwrap() > 100_000);
        assert!(ServerProcess::new(u32::MAX).cpu_s().is_err());
    }
}
