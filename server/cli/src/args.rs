//! The command line. The flags for configuration keys are made from the table of keys.

use clap::{Arg, ArgAction, Command};
use collabblocks_server::config::Key;

/// Where a command's configuration flags are shown.
#[derive(Clone, Copy, PartialEq)]
enum Show {
    Yes,
    No,
}

/// The whole command line.
pub fn command() -> Command {
    let root = Command::new("collabblocks")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A self-hosted real-time collaboration server for Linux")
        .long_about(
            "A self-hosted real-time collaboration server for Linux: rooms of Yjs documents and presence, durable, on \
             pinned cores.\n\nWithout a command it serves, and takes all options of `collabblocks serve`.",
        )
        .after_help(super::exit::help())
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .subcommand(serve())
        .subcommand(config())
        .subcommand(check())
        .subcommand(health())
        .subcommand(wal());
    with_keys(root, Show::No)
}

fn serve() -> Command {
    let command = Command::new("serve")
        .about("Serves rooms until it is told to stop (SIGTERM, SIGINT)")
        .after_help(super::exit::help());
    with_keys(command, Show::Yes)
}

fn config() -> Command {
    let check = Command::new("check")
        .about(
            "Prints ok, or all that is wrong with the configuration, each with its place; reads the certificate's \
             files too",
        );
    let print = Command::new("print")
        .about("Prints the configuration in force, each value with where it comes from");
    Command::new("config")
        .about("Checks and prints the configuration")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(with_keys(check, Show::No))
        .subcommand(with_keys(print, Show::No))
        .subcommand(
            Command::new("default")
                .about("Prints a documented configuration file with every key at its default"),
        )
}

fn check() -> Command {
    let command = Command::new("check")
        .about("Checks what this machine is set to, and says what would be better; changes nothing")
        .arg(json())
        .after_help("Exits 1 if a check failed; what could be better is no failure.");
    let names = ["data", "tls.certificate", "tls.key"];
    with_config(command).args(names.map(|name| key_arg(key(name), Show::Yes)))
}

fn health() -> Command {
    let command = Command::new("health")
        .about("Asks the server on this machine whether it is ready; for container health checks")
        .arg(
            Arg::new("timeout_ms")
                .long("timeout-ms")
                .value_name("MS")
                .default_value("2000")
                .value_parser(clap::value_parser!(u64).range(1..=600_000))
                .help("Milliseconds to wait for the answer"),
        )
        .arg(
            Arg::new("ca_file")
                .long("ca-file")
                .value_name("FILE")
                .value_parser(clap::value_parser!(std::path::PathBuf))
                .help(
                    "Under TLS, trust what leads to a certificate in this file (PEM), instead of the first one in \
                     tls.certificate alone",
                ),
        )
        .after_help(
            "Asks control_listen if it is set, which is in the clear; else the first address of listen, over TLS if \
             tls.certificate is set. The server must then show the certificate that stands first in that file; its \
             names and dates do not matter. With --ca-file its dates do. Exits 0 if ready, else 1.",
        );
    let mut command = with_config(command);
    for name in ["listen", "control_listen", "tls.certificate"] {
        command = command.arg(key_arg(key(name), Show::Yes));
    }
    // Of no use to it, and taken so that the server's own options may be given.
    command.arg(key_arg(key("tls.key"), Show::No))
}

fn wal() -> Command {
    let data = || {
        Arg::new("data")
            .value_name("DIRECTORY")
            .required(true)
            .value_parser(clap::value_parser!(std::path::PathBuf))
            .help("The data directory")
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let inspect = Command::new("inspect")
        .about("Lists the segments of all logs, damaged ones too, and what is in them")
        .arg(data())
        .arg(flag("batches", "List each batch"))
        .arg(flag("records", "List each batch and each record in it"))
        .after_help("Exits 1 if something that is listed is damaged.");
    let verify = Command::new("verify")
        .about("Says for each log what opening it would do (replay it, cut a torn tail, or refuse), and reads all snapshots")
        .arg(data())
        .after_help("Exits 1 if a log would be refused or a snapshot cannot be read.");
    let salvage = Command::new("salvage")
        .about("Writes what can be read of a damaged data directory into a new one")
        .arg(data())
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("DIRECTORY")
                .required(true)
                .value_parser(clap::value_parser!(std::path::PathBuf))
                .help("The new data directory, which is empty or not there"),
        )
        .after_help(
            "Says for each room whether all of it is there or what is lost. The damaged directory is not changed. \
             Exits 1 if something is lost.",
        );
    Command::new("wal")
        .about("Reads the logs and snapshots of a data directory without the server; does not change it")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(inspect)
        .subcommand(verify)
        .subcommand(salvage)
}

fn json() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print JSON")
}

fn key(name: &str) -> &'static Key {
    Key::find(name).expect("a key of the configuration")
}

fn with_config(command: Command) -> Command {
    command.arg(
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("COLLABBLOCKS_CONFIG")
            .value_parser(clap::value_parser!(std::path::PathBuf))
            .help("The configuration file (TOML)"),
    )
}

/// Adds `--config` and a flag for every key. Where the flags are not shown, what is shown says
/// where to look.
fn with_keys(command: Command, show: Show) -> Command {
    let command = with_config(command);
    let command = if show == Show::No && command.get_name() != "collabblocks" {
        command.after_help(
            "All options of `collabblocks serve` that set a configuration key are taken too.",
        )
    } else {
        command
    };
    command.args(Key::all().iter().map(|key| key_arg(key, show)))
}

fn key_arg(key: &'static Key, show: Show) -> Arg {
    let default = key.value(&collabblocks_server::config::Config::default());
    let heading = match key.group() {
        "" => "Server",
        "log" => "Log",
        "tls" => "TLS",
        "proxy" => "PROXY protocol",
        "wal" => "Write-ahead log",
        "snapshots" => "Snapshots and rooms in memory",
        "limits" => "Limits",
        other => unreachable!("group {other} has no heading"),
    };
    Arg::new(key.name)
        .long(key.flag())
        .value_name(value_name(key))
        .action(ArgAction::Append)
        .hide(show == Show::No)
        .help_heading(heading)
        .help(format!(
            "{} [default: {default}] [env: {}]",
            key.help().replace('`', "'"),
            key.env()
        ))
}

fn value_name(key: &Key) -> &'static str {
    let units = [
        ("_ms", "MS"),
        ("_us", "US"),
        ("_s", "SECONDS"),
        ("_bytes", "BYTES"),
        ("_bytes_max", "BYTES"),
    ];
    match units.iter().find(|(unit, _)| key.name.ends_with(unit)) {
        Some((_, name)) => name,
        None if key.name.ends_with("_max") => "COUNT",
        None if key.name.ends_with("listen") => "ADDRESS",
        None if key.name == "data" => "DIRECTORY",
        None => "VALUE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(command: &Command, path: &str, visit: &mut impl FnMut(&Command, &str)) {
        visit(command, path);
        for sub in command.get_subcommands() {
            walk(sub, &format!("{path} {}", sub.get_name()), visit);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_has_help() {
        let mut root = command();
        root.build();
        let mut commands = 0;
        walk(&root, "collabblocks", &mut |command, path| {
            commands += 1;
            assert!(command.get_about().is_some(), "{path} has no help");
            for arg in command.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(
                    !help.trim().is_empty(),
                    "{path}: {} has no help",
                    arg.get_id()
                );
            }
            let text = command.clone().render_long_help().to_string();
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                let shown = arg
                    .get_long()
                    .map_or(arg.get_id().to_string(), |long| format!("--{long}"));
                assert!(text.contains(&shown), "{path}: {shown} is not in its help");
            }
        });
        assert!(commands >= 10, "only {commands} commands were walked");
    }

    #[test]
    fn every_key_has_its_flag_wherever_a_configuration_is_read_whole() {
        let mut root = command();
        root.build();
        let config = root.find_subcommand("config").unwrap();
        let serve = root.find_subcommand("serve").unwrap();
        for command in [
            &root,
            serve,
            config.find_subcommand("check").unwrap(),
            config.find_subcommand("print").unwrap(),
        ] {
            for key in Key::all() {
                let flag = key.flag();
                let arg = command
                    .get_arguments()
                    .find(|arg| arg.get_long() == Some(&flag));
                let arg = arg.unwrap_or_else(|| panic!("{} has no --{flag}", command.get_name()));
                assert_eq!(arg.get_id().as_str(), key.name);
            }
        }
        let help = serve.clone().render_long_help().to_string();
        for key in Key::all() {
            assert!(
                help.contains(&key.env()),
                "{} is not in the help of serve",
                key.env()
            );
        }
    }
}
