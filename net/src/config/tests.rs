use super::*;
use clap::Parser;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    settings: Settings,
}

fn machine() -> Machine {
    Machine { host_name: Some("Box7".into()), core_count: 6, has_ipv6: true }
}

fn resolve(flags: &str) -> Result<Config, ConfigError> {
    let arguments = ["serve"].into_iter().chain(flags.split_whitespace());
    Program::try_parse_from(arguments).unwrap().settings.resolve(&machine())
}

fn with_file(content: &str, flags: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hub.toml");
    std::fs::write(&path, content).unwrap();
    resolve(&format!("--config {} {flags}", path.display()))
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

#[test]
fn defaults() {
    let config = resolve("--data d").unwrap();
    assert_eq!(config.hosts, ["localhost", "box7", "hub.localhost"].map(name));
    assert_eq!(config.name_of_new_hub(), "localhost");
    assert_eq!(config.bind, [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    assert_eq!((config.amqps_port, config.https_port, config.plain_amqp_port), (5671, None, None));
    assert_eq!(config.mqtts_port, 8883);
    assert_eq!((config.core_count, config.partitions_of_new_hub()), (6, 6));
    assert_eq!((config.retention_days, config.retention_bytes), (7, None));
    assert_eq!(config.data_key, DataKeySource::Beside);
    let one = resolve("--data d --cores 1").unwrap();
    assert_eq!(one.partitions_of_new_hub(), 4);
    let names = config.certificate_names();
    assert_eq!(names, ["localhost", "box7", "hub.localhost", "127.0.0.1", "::1"].map(name));
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = r#"
        data = "from-file"
        host = "one.example"
        bind = ["10.0.0.1", "10.0.0.2"]
        amqps-port = 1
        https-port = 2
        retention-bytes = "3KiB"
        retention-days = 2
        data-key-file = "key"
        log = "debug"
    "#;
    let config = with_file(file, "").unwrap();
    assert_eq!(config.data, PathBuf::from("from-file"));
    assert_eq!(config.hosts, [name("one.example")]);
    assert_eq!(config.name_of_new_hub(), "one");
    assert_eq!((config.amqps_port, config.https_port), (1, Some(2)));
    assert_eq!(config.retention_bytes, Some(3072));
    assert_eq!(config.data_key, DataKeySource::File("key".into()));
    assert_eq!(config.log, "debug");

    let flags =
        "--data flag --host two.example --host 10.9.9.9 --https-port 4 --retention-days 5 --data-key-fd 7";
    let config = with_file(file, flags).unwrap();
    assert_eq!(config.data, PathBuf::from("flag"));
    assert_eq!(config.hosts, ["two.example", "10.9.9.9"].map(name));
    assert_eq!(config.bind.len(), 2);
    assert_eq!((config.amqps_port, config.https_port), (1, Some(4)));
    assert_eq!(config.retention_days, 5);
    assert_eq!(config.data_key, DataKeySource::Descriptor(7));
}

#[test]
fn errors_are_one_line_that_names_the_key() {
    for (flags, expected) in [
        ("", "data: "),
        ("--data d --partitions 33", "partitions: 33 is not from 1 to 32"),
        ("--data d --partitions 0", "partitions: "),
        ("--data d --cores 0", "cores: "),
        ("--data d --retention-days 8", "retention-days: "),
        ("--data d --token-skew-s 301", "token-skew-s: "),
        ("--data d --bind localhost", "bind: "),
        ("--data d --host bad_host:443", "host: "),
        ("--data d --name under_score", "name: "),
        ("--data d --https-port 0", "https-port: "),
        ("--data d --cores 3 --pin 0-1", "pin: 2 CPUs for 3 cores"),
        ("--data d --pin 3-1", "pin: "),
        ("--data d --pin 1,1", "pin: "),
        ("--config /nowhere/at/all", "/nowhere/at/all: "),
    ] {
        let text = resolve(flags).unwrap_err().to_string();
        assert!(text.starts_with(expected) && !text.contains('\n'), "{flags}: {text}");
    }
}

#[test]
fn a_bad_file_is_named_with_its_line() {
    for content in
        ["data = \"d\"\nunknown = 1\n", "data = \"d\"\ncores = \"two\"\n", "data = \"d\"\ncores = \n"]
    {
        let text = with_file(content, "").unwrap_err().to_string();
        assert!(text.contains("hub.toml: line 2: ") && !text.contains('\n'), "{text}");
    }
    let both = "data = \"d\"\ndata-key-file = \"a\"\ndata-key-fd = 3\n";
    assert!(with_file(both, "").is_err());
}

#[test]
fn pins() {
    assert_eq!(resolve("--data d --pin none").unwrap().pin, Pin::None);
    assert_eq!(resolve("--data d --cores 4 --pin 0,2,4-7").unwrap().pin, Pin::Cpus(vec![0, 2, 4, 5]));
}

#[test]
fn bytes_have_units() {
    for (text, expected) in
        [("0", 0), ("512", 512), ("1kB", 1000), ("40GiB", 40 << 30), ("2 TB", 2_000_000_000_000)]
    {
        assert_eq!(text.parse(), Ok(Bytes(expected)));
    }
    for bad in ["", "GiB", "1.5GB", "-1", "1 lightyear", "99999999999TiB"] {
        assert!(bad.parse::<Bytes>().is_err(), "{bad}");
    }
}

#[test]
fn an_address_gives_the_hub_a_plain_name() {
    let config = resolve("--data d --host 10.0.0.5 --bind 0.0.0.0").unwrap();
    assert_eq!(config.name_of_new_hub(), "hub");
    assert_eq!(config.certificate_names(), ["10.0.0.5", "127.0.0.1"].map(name));
}

#[test]
fn rules_of_commands() {
    assert_eq!(resolve("--data d").unwrap().commands, CommandRules::default());
    let file =
        "data = \"d\"\ncommand-queue-depth = 5\ncommand-lock-s = 30\ncommand-count-every-lock = true\n";
    let flags = "--command-queue-depth 7 --command-ttl-s 60 --command-deliveries-max 3";
    let rules = with_file(file, flags).unwrap().commands;
    let expected = CommandRules {
        queue_depth_max: 7,
        ttl_ms_default: 60_000,
        lock_timeout_ms: 30_000,
        delivery_count_max: 3,
        counts_every_lock: true,
        ..CommandRules::default()
    };
    assert_eq!(rules, expected);
    for flags in [
        "--command-queue-depth 0",
        "--command-ttl-s 59",
        "--command-ttl-s 172801",
        "--command-lock-s 301",
        "--command-deliveries-max 101",
    ] {
        assert!(resolve(&format!("--data d {flags}")).is_err(), "{flags}");
    }
}
