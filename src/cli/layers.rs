//! Settings in layers: built in, then a file (`--config`), then the environment (`TROUPE_PORT` sets
//! `--port`), then the command line; later wins.
//!
//! The parser stays the one place that knows flags and their types: what file and environment say
//! become its defaults, and an error about one of them says where it came from.

use std::ffi::OsString;

use clap::{
    ArgAction, Command, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};
use troupe_runtime::config::{ConfigError, Settings};

use super::Cli;

/// Parses a command line over its file and the environment; ends the process with help or an error
/// as a parser does.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<String>,
) -> Cli {
    let args: Vec<OsString> = args.into_iter().map(long_flag).collect();
    let (command, settings) = match layered(&args, variable) {
        Ok(layered) => layered,
        Err(error) => Cli::command().error(ErrorKind::ValueValidation, error).exit(),
    };
    command
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .unwrap_or_else(|error| with_origin(error, &settings).exit())
}

/// The parser with file and environment as defaults of the command that was chosen.
fn layered(
    args: &[OsString],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(Command, Settings), ConfigError> {
    let command = Cli::command();
    let chosen = args
        .iter()
        .filter_map(|arg| arg.to_str())
        .find_map(|arg| command.find_subcommand(arg))
        .map(|chosen| chosen.get_name().to_owned());
    let Some(chosen) = chosen else { return Ok((command, Settings::default())) };
    // `bench` has commands of its own.
    let below = command.find_subcommand(&chosen).into_iter().flat_map(Command::get_subcommands);
    let names: Vec<String> = command
        .find_subcommand(&chosen)
        .into_iter()
        .chain(below)
        .chain([&command])
        .flat_map(Command::get_arguments)
        .filter(|arg| matches!(arg.get_action(), ArgAction::Set | ArgAction::Append))
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect();
    let mut settings = Settings::with_defaults(names.iter().map(|name| (name.as_str(), "")));
    if let Some(path) = config_file(args) {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| ConfigError::File { file: path.clone(), why: error.to_string() })?;
        settings = settings.file(&path, &text)?;
    }
    settings = settings.environment(&variable);
    let given: Vec<_> =
        settings.given().map(|(name, _, value)| (name.to_owned(), value.to_owned())).collect();
    let with_default = |arg: clap::Arg| {
        let given = given.iter().find(|(name, _)| Some(name.as_str()) == arg.get_long());
        match given {
            Some((_, value)) => arg.default_value(value.clone()).required(false),
            None => arg,
        }
    };
    let command = command.mut_args(with_default).mut_subcommand(&chosen, |command| {
        command.mut_args(with_default).mut_subcommands(|below| below.mut_args(with_default))
    });
    Ok((command, settings))
}

/// The file that `--config` names.
fn config_file(args: &[OsString]) -> Option<String> {
    let mut args = args.iter().filter_map(|arg| arg.to_str());
    while let Some(arg) = args.next() {
        if arg == "--config" {
            return args.next().map(str::to_owned);
        }
        if let Some(path) = arg.strip_prefix("--config=") {
            return Some(path.to_owned());
        }
    }
    None
}

/// Adds to an error about a value where that value came from.
fn with_origin(error: clap::Error, settings: &Settings) -> clap::Error {
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else { return error };
    let name = arg.trim_start_matches('-').split([' ', '=']).next().unwrap_or_default();
    let origin = settings.given().find(|(given, ..)| *given == name).map(|(_, origin, _)| origin);
    let (Some(origin), ErrorKind::InvalidValue | ErrorKind::ValueValidation) =
        (origin, error.kind())
    else {
        return error;
    };
    let text = error.to_string();
    let text = text.trim_start_matches("error: ").lines().next().unwrap_or_default();
    clap::Error::raw(error.kind(), format!("{text} (from {origin})\n"))
}

/// vLLM's `-tp N` and `-pp N`: one dash with two letters, which no parser of ours has.
fn long_flag(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let long = match name {
        "-tp" => "--tensor-parallel-size",
        "-pp" => "--pipeline-parallel-size",
        _ => return arg,
    };
    value.map_or_else(|| long.into(), |value| format!("{long}={value}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(
        line: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<String>, String> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).map(long_flag).collect();
        let (command, settings) = layered(&args, variable).map_err(|error| error.to_string())?;
        let matches = command
            .try_get_matches_from(args)
            .map_err(|error| with_origin(error, &settings).to_string())?;
        let (_, serve) = matches.subcommand().ok_or("no command")?;
        Ok(serve.get_one::<u16>("port").map(u16::to_string))
    }

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn later_layers_win() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("troupe.yaml");
        std::fs::write(&file, "port: 7001\n").expect("written");
        let line = format!("troupe serve m --config {}", file.display());
        let variable = |name: &str| (name == "TROUPE_PORT").then(|| "7002".to_owned());
        assert_eq!(port("troupe serve m", nothing), Ok(Some("8000".into())));
        assert_eq!(port(&line, nothing), Ok(Some("7001".into())));
        assert_eq!(port(&line, variable), Ok(Some("7002".into())));
        let line = format!("{line} --port 7003 -tp 2");
        assert_eq!(port(&line, variable), Ok(Some("7003".into())));
    }

    #[test]
    fn commands_of_a_command_have_layers_too() {
        let variable = |name: &str| (name == "TROUPE_PORT").then(|| "7002".to_owned());
        let args = ["troupe", "bench", "serve"].map(OsString::from);
        let (command, _) = layered(&args, variable).expect("it can be read");
        let matches = command.try_get_matches_from(args).expect("it can be parsed");
        let below = matches.subcommand().and_then(|(_, bench)| bench.subcommand());
        let port = below.and_then(|(_, serve)| serve.get_one::<u16>("port"));
        assert_eq!(port, Some(&7002));
    }

    #[test]
    fn an_error_says_where_the_value_came_from() {
        let variable = |name: &str| (name == "TROUPE_PORT").then(|| "many".to_owned());
        let error = port("troupe serve m", variable).expect_err("no number");
        assert!(error.contains("many") && error.contains("TROUPE_PORT"), "{error}");
        let error = port("troupe serve m --config /no/such/file", nothing).expect_err("no file");
        assert!(error.contains("/no/such/file"), "{error}");
    }

    #[test]
    fn a_file_may_only_set_flags_of_the_command() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("troupe.yaml");
        std::fs::write(&file, "prot: 7001\n").expect("written");
        let line = format!("troupe serve m --config {}", file.display());
        assert!(port(&line, nothing).expect_err("a typing error").contains("prot"));
    }
}
