//! What wins over what, and what a mistake reads like. Must never read this machine's environment or files.

use super::*;

/// Loads a command line (split at blanks) with variables and one file.
fn load_with(arguments: &str, variables: &[(&str, &str)], file: &str) -> Result<Invocation, ConfigError> {
    let words = std::iter::once("spandrel").chain(arguments.split_whitespace()).map(OsString::from);
    let variable = |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    };
    let file = |path: &Path| match path.to_str() {
        Some("c.yaml") => Ok(file.as_bytes().to_vec()),
        _ => Err(std::io::Error::from_raw_os_error(2)),
    };
    load(words, &Sources { variable: &variable, file: &file })
}

#[track_caller]
fn settings(arguments: &str, variables: &[(&str, &str)], file: &str) -> Settings {
    match load_with(arguments, variables, file).unwrap() {
        Invocation::Run(_, settings) => *settings,
        Invocation::Print(text) => panic!("{text}"),
    }
}

#[track_caller]
fn wrong(arguments: &str, variables: &[(&str, &str)], file: &str, message: &str) {
    let error = load_with(arguments, variables, file).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn without_anything_every_process_is_traced_to_the_terminal() {
    let found = settings("", &[], "");
    assert!(found.selection.is_everything());
    assert_eq!(found.exports, [Export::Terminal]);
    assert_eq!(found.log, crate::log::Level::Info);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_environment() {
    let variables =
        [("SPANDREL_RING_BYTES", "1MiB"), ("SPANDREL_LOG", "debug"), ("SPANDREL_CAPTURE_BYTES", "8KiB")];
    let file = "ring_bytes: 2MiB\nlog: warn\n";
    let found = settings("--config c.yaml --ring-bytes 4MiB", &variables, file);
    assert_eq!(found.ring_bytes, 4 << 20);
    assert_eq!(found.log, crate::log::Level::Warn);
    assert_eq!(found.capture_bytes, 8 << 10);
}

#[test]
fn a_repeatable_setting_is_taken_whole_from_the_strongest_source() {
    let found =
        settings("--config c.yaml --pid 1 --pid 2", &[("SPANDREL_PID", "5")], "pid: [3, 4]\nport: 80\n");
    assert_eq!(found.selection.pids, [1, 2]);
    assert_eq!(found.selection.ports, [80]);
    let found = settings("", &[("SPANDREL_PID", "5, 6"), ("SPANDREL_EXE", "")], "");
    assert_eq!(found.selection.pids, [5, 6]);
    assert!(found.selection.executables.is_empty(), "an empty variable is an unset one");
}

#[test]
fn the_file_can_be_named_by_a_variable() {
    assert_eq!(settings("", &[("SPANDREL_CONFIG", "c.yaml")], "log: trace").log, crate::log::Level::Trace);
}

#[test]
fn a_weaker_source_is_not_read_where_a_stronger_one_speaks() {
    settings("--log info", &[("SPANDREL_LOG", "nonsense")], "");
}

#[test]
fn spans_go_to_otlp_as_soon_as_an_endpoint_is_known() {
    let otlp = [Export::Otlp];
    assert_eq!(settings("--otlp-endpoint http://c:4317", &[], "").exports, otlp);
    assert_eq!(settings("", &[("SPANDREL_OTLP_ENDPOINT", "http://c:4317")], "").exports, otlp);
    assert_eq!(settings("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")], "").exports, otlp);
    assert_eq!(settings("", &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "c:4317")], "").exports, otlp);
    assert_eq!(settings("", &[("OTEL_TRACES_EXPORTER", "otlp")], "").exports, otlp);
    let both = settings("--export terminal --export file:/x.json --otlp-endpoint http://c", &[], "");
    assert_eq!(both.exports, [Export::Terminal, Export::File("/x.json".into())]);
}

#[test]
fn check_takes_the_same_settings_before_and_after_it() {
    for arguments in ["check --pid 7 --backend syscall", "--pid 7 --backend syscall check"] {
        let Ok(Invocation::Run(Command::Check, found)) = load_with(arguments, &[], "") else {
            panic!("{arguments}");
        };
        assert_eq!((found.selection.pids.as_slice(), found.backend), ([7].as_slice(), Backend::Syscall));
    }
    assert!(matches!(load_with("", &[], ""), Ok(Invocation::Run(Command::Trace, _))));
}

#[test]
fn kubernetes_variables_of_a_service_called_spandrel_are_no_settings() {
    assert!(settings("", &[("SPANDREL_PORT", "tcp://10.0.0.1:4040")], "").selection.ports.is_empty());
}

#[test]
fn help_and_version_are_printed_and_name_every_setting() {
    let Ok(Invocation::Print(help)) = load_with("--help", &[], "") else { panic!() };
    for setting in &SETTINGS {
        assert!(
            help.contains(&format!("{} <{}>", setting.flag(), setting.value)),
            "{} in {help}",
            setting.key
        );
        assert!(reference().contains(&format!("| `{}` |", setting.flag())), "{}", setting.key);
    }
    let Ok(Invocation::Print(version)) = load_with("--version", &[], "") else { panic!() };
    assert_eq!(version, format!("spandrel {}\n", env!("CARGO_PKG_VERSION")));
    assert!(matches!(load_with("check --help", &[], ""), Ok(Invocation::Print(_))));
}

#[test]
fn a_wrong_value_is_told_by_key_value_and_what_would_be_right() {
    wrong(
        "--ring-bytes 100KiB",
        &[],
        "",
        "--ring-bytes: \"100KiB\" is not right: a power of two, such as 64KiB or 128KiB, would be",
    );
    wrong("--pid x", &[], "", "--pid: \"x\" is not right: a number from 1 to 4194304 would be");
    wrong("--pid -5", &[], "", "--pid: \"-5\" is not right: a number from 1 to 4194304 would be");
    wrong("--port 70000", &[], "", "--port: \"70000\" is not right: a number from 1 to 65535 would be");
    wrong("--backend magic", &[], "", "--backend: \"magic\" is not right: auto, socket or syscall would be");
    wrong(
        "--otlp-endpoint collector",
        &[],
        "",
        "--otlp-endpoint: \"collector\" is not right: a URL such as http://collector:4317 would be",
    );
    wrong(
        "--export csv",
        &[],
        "",
        "--export: \"csv\" is not right: otlp, terminal, file:PATH or none would be",
    );
    wrong("--export file:", &[], "", "--export: \"file:\" is not right: file: and a path would be");
    wrong(
        "--export none --export otlp",
        &[],
        "",
        "--export: \"none\" is not right: none alone, or other targets without it would be",
    );
    wrong(
        "--pending-age 60",
        &[],
        "",
        "--pending-age: \"60\" is not right: a duration from 1s to 3600s with its unit, such as 60s or 500ms, would be",
    );
    wrong(
        "",
        &[("SPANDREL_LOG", "loud")],
        "",
        "SPANDREL_LOG: \"loud\" is not right: error, warn, info, debug or trace would be",
    );
    wrong(
        "",
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://x")],
        "",
        "OTEL_EXPORTER_OTLP_ENDPOINT: \"ftp://x\" is not right: a URL such as http://collector:4317 would be",
    );
    wrong(
        "--config c.yaml",
        &[],
        "ring_bytes: 1",
        "ring_bytes in c.yaml: \"1\" is not right: a size from 64KiB to 1GiB, such as 65536 or 64KiB, would be",
    );
}

#[test]
fn an_unknown_name_leads_to_the_nearest_right_one() {
    wrong("--ring-byte 1", &[], "", "option \"--ring-byte\" is not known; did you mean --ring-bytes?");
    wrong("--colour", &[], "", "option \"--colour\" is not known; spandrel --help lists all settings");
    wrong("chekc", &[], "", "argument \"chekc\" is not known; did you mean check?");
    wrong(
        "--config c.yaml",
        &[],
        "rnig_bytes: 1",
        "key of c.yaml \"rnig_bytes\" is not known; did you mean ring_bytes?",
    );
    wrong(
        "--config c.yaml",
        &[],
        "ring-bytes: 1",
        "key of c.yaml \"ring-bytes\" is not known; did you mean ring_bytes?",
    );
    wrong(
        "--config c.yaml",
        &[],
        "config: other.yaml",
        "key of c.yaml \"config\" is not known; spandrel --help lists all settings",
    );
}

#[test]
fn an_option_without_value_or_given_twice_is_told() {
    wrong("--pid", &[], "", "--pid: it needs a value: --pid N");
    wrong("--log info --log warn", &[], "", "--log: it was given twice and takes one value");
}

#[test]
fn a_file_that_cannot_be_read_is_a_sentence_with_path_and_reason() {
    wrong(
        "--config /nowhere.yaml",
        &[],
        "",
        "cannot read the configuration file \"/nowhere.yaml\": No such file or directory (os error 2)",
    );
    wrong(
        "--config c.yaml",
        &[],
        "- a\n",
        "cannot read the configuration file \"c.yaml\": it is not a mapping of keys to values, such as ring_bytes: 16MiB",
    );
    wrong("--config c.yaml", &[], "log: [info]\n", "log in c.yaml: it takes one value, not a list");
    wrong(
        "--config c.yaml",
        &[],
        "pid: [[1]]\n",
        "pid in c.yaml: each value of the list must be a text or a number",
    );
    wrong("--config c.yaml", &[], "log: {a: b}\n", "log in c.yaml: its value must be a text or a number");
    let error = load_with("--config c.yaml", &[], "log: info\nlog: warn\n").unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration file \"c.yaml\": duplicate entry"), "{error}");
    let error = load_with("--config c.yaml", &[], "log: [\n").unwrap_err().to_string();
    assert!(error.contains("line") && !error.contains('\n'), "{error}");
}

#[test]
fn an_empty_file_and_an_empty_key_change_nothing() {
    assert_eq!(settings("--config c.yaml", &[], "# nothing\n").log, crate::log::Level::Info);
    assert_eq!(settings("--config c.yaml", &[], "log:\n").log, crate::log::Level::Info);
}

#[test]
fn the_real_reader_says_why() {
    let sources = Sources::real();
    assert!((sources.file)(Path::new("/nowhere.yaml")).is_err());
    assert!((sources.file)(Path::new("/")).is_err());
    assert!((sources.file)(Path::new("/dev/zero")).is_err(), "longer than the bound");
}
