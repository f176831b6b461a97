//! Values of settings: from what was said to what is meant, or a sentence that says why not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ConfigError, Machine, Pin, value};
use crate::certificate::Name;
use crate::further::{FURTHER, Further};

pub(super) fn within<T: PartialOrd + std::fmt::Display + Copy>(
    key: &'static str,
    number: T,
    min: T,
    max: T,
) -> Result<T, ConfigError> {
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(value(key, format!("{number} is not from {min} to {max}")))
    }
}

pub(super) fn port(key: &'static str, number: u16) -> Result<u16, ConfigError> {
    within(key, number, 1, u16::MAX)
}

/// Further protocols as `SCHEME=PORT`, each once.
pub(super) fn further(said: &[String]) -> Result<Vec<(&'static Further, u16)>, ConfigError> {
    let mut found: Vec<(&Further, u16)> = Vec::new();
    for text in said {
        let (scheme, number) = text.split_once('=').unwrap_or((text, ""));
        let number = number.trim().parse();
        let number = number.map_err(|_| value("also", format!("{text:?} is not SCHEME=PORT")))?;
        let Some(protocol) = Further::find(scheme.trim()) else {
            let known: Vec<&str> = FURTHER.iter().map(|protocol| protocol.scheme).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(value(
                "also",
                format!("{scheme:?} is none of this program's further protocols: {known}"),
            ));
        };
        if found.iter().any(|(known, _)| *known == protocol) {
            return Err(value("also", format!("{scheme:?} is named twice")));
        }
        found.push((protocol, port("also", number)?));
    }
    Ok(found)
}

/// Hub names are host labels: clients put them in front of a domain and into user names.
pub(super) fn check_name(name: &str) -> Result<(), ConfigError> {
    let is_good = (1..=50).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if is_good {
        Ok(())
    } else {
        Err(value("name", format!("{name:?} is not 1 to 50 letters, digits and inner hyphens")))
    }
}

pub(super) fn hosts(said: &[String], machine: &Machine) -> Result<Vec<Name>, ConfigError> {
    if said.is_empty() {
        let machine = machine.host_name.as_deref().and_then(|name| Name::parse(name).ok());
        let mut names = vec![Name::Host("localhost".into())];
        names.extend(machine.filter(|name| *name != names[0]));
        names.push(Name::Host("hub.localhost".into()));
        return Ok(names);
    }
    let parse = |text: &String| Name::parse(text).map_err(|error| value("host", error.to_string()));
    said.iter().map(parse).collect()
}

pub(super) fn bind(said: &[String], machine: &Machine) -> Result<Vec<IpAddr>, ConfigError> {
    if said.is_empty() {
        let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        addresses.extend(machine.has_ipv6.then_some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        return Ok(addresses);
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in said {
        let Ok(Name::Address(address)) = Name::parse(text) else {
            return Err(value("bind", format!("{text:?} is not an address")));
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

pub(super) fn parse_pin(text: &str, core_count: u16) -> Result<Pin, ConfigError> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Pin::None);
    }
    let bad = |part: &str| value("pin", format!("{part:?} is not a list of CPUs such as 0,2,4-7"));
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u16 = first.parse().map_err(|_| bad(part))?;
        let last: u16 = last.parse().map_err(|_| bad(part))?;
        if first > last {
            return Err(bad(part));
        }
        for cpu in first..=last {
            if cpus.contains(&usize::from(cpu)) {
                return Err(value("pin", format!("CPU {cpu} is named twice")));
            }
            cpus.push(usize::from(cpu));
        }
    }
    if cpus.len() < usize::from(core_count) {
        return Err(value("pin", format!("{} CPUs for {core_count} cores: name one for each", cpus.len())));
    }
    cpus.truncate(usize::from(core_count));
    Ok(Pin::Cpus(cpus))
}
