//! `config` and `log-level`: what the daemon goes by, what it would go by, and what is wrong with it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use bytesize::ByteSize;
use coracle_proto::admin::{
    ConfigChange, ConfigSetting, ReloadConfigRequest, ReloadConfigResponse, SetLogLevelRequest,
    ShowConfigRequest,
};
use coracle_proto::client::{Client, ClientError};
use coracle_types::{Kind, Kinded};
use serde::Serialize;

use super::reach;
use crate::cli::{CheckArgs, ConfigCommand, Global, LogLevelArgs, Output, ShowArgs};
use crate::config::{self, EXIT_CONFIG, Effect, Loaded, Problem, Rejected, Sources};
use crate::terminal::{Cell, Column, Cut, Listing, Row, Screen, Status, Tone, Trouble, complain, remark};

const SETTINGS: [Column; 4] = [
    Column::new("KEY"),
    Column::new("VALUE").cut(Cut::End),
    Column::new("ORIGIN").rank(1),
    Column::new("A CHANGE COUNTS").rank(2),
];
const CHANGES: [Column; 4] = [
    Column::new("KEY"),
    Column::new("COUNTS"),
    Column::new("FROM").rank(1).cut(Cut::End),
    Column::new("TO").cut(Cut::End),
];

/// Runs a subcommand of `config`.
pub(crate) async fn run(
    command: ConfigCommand,
    global: &Global,
    screen: &Screen,
) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Default => {
            screen.has_one_form("the default configuration is a TOML file", &[])?;
            screen.raw(&config::commented_default())?;
        }
        ConfigCommand::Schema => {
            screen.has_one_form("a JSON Schema is JSON", &[Output::Json, Output::Yaml])?;
            screen.value(&config::schema())?;
        }
        ConfigCommand::Check(args) => return check(&args, screen),
        ConfigCommand::Show(args) => return show(&args, global, screen).await,
        ConfigCommand::Reload => return reload(&reach::connect(&global.socket).await?, screen).await,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Mistake {
    origin: String,
    message: String,
}

fn check(args: &CheckArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let sources = args
        .file
        .as_deref()
        .map_or_else(Sources::of_node, Sources::of_file);
    let files = sources.files();
    match Loaded::read(&sources) {
        Ok(_) => {
            tell_good(&files, screen)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(rejected) if matches!(screen.output, Output::Json | Output::Yaml) => {
            tell_mistakes(&rejected.0, screen)?;
            Ok(EXIT_CONFIG.into())
        }
        Err(rejected) => Ok(refuse(rejected)),
    }
}

fn tell_good(files: &[PathBuf], screen: &Screen) -> anyhow::Result<()> {
    let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    match (screen.output, names.as_slice()) {
        (Output::Json | Output::Yaml, _) => tell_mistakes(&[], screen)?,
        (Output::Name, names) => names.iter().try_for_each(|name| screen.line(name))?,
        (_, []) => {
            screen.line(format!(
                "no file is there ({}): the defaults count",
                config::DEFAULT_FILE
            ))?;
        }
        (_, names) => screen.line(format!("good: {}", names.join(", ")))?,
    }
    Ok(())
}

fn tell_mistakes(problems: &[Problem], screen: &Screen) -> anyhow::Result<()> {
    let mistake = |problem: &Problem| Mistake {
        origin: problem.origin.to_string(),
        message: problem.message.clone(),
    };
    screen.value(&problems.iter().map(mistake).collect::<Vec<_>>())
}

fn refuse(rejected: Rejected) -> ExitCode {
    complain(&rejected.into());
    EXIT_CONFIG.into()
}

async fn show(args: &ShowArgs, global: &Global, screen: &Screen) -> anyhow::Result<ExitCode> {
    let settings = if args.files {
        None
    } else {
        of_daemon(global).await?
    };
    let settings = match settings {
        Some(settings) => settings,
        None => match Loaded::read(&Sources::of_node()) {
            Ok(loaded) => of_files(&loaded),
            Err(rejected) => return Ok(refuse(rejected)),
        },
    };
    let shown = settings
        .iter()
        .filter(|setting| !args.changed || setting.origin != "default");
    tell_settings(shown, screen)?;
    for setting in &settings {
        if let Some(pending) = &setting.pending {
            remark(format!(
                "{} = {pending} counts after a restart of the daemon",
                setting.key
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tell_settings<'a>(
    settings: impl Iterator<Item = &'a ConfigSetting>,
    screen: &Screen,
) -> anyhow::Result<()> {
    screen.listing(&Listing {
        columns: SETTINGS.to_vec(),
        rows: settings.map(setting_row).collect::<Result<_, _>>()?,
        nothing: "everything is as it is by default".to_owned(),
    })
}

/// `None` when no daemon runs.
async fn of_daemon(global: &Global) -> anyhow::Result<Option<Vec<ConfigSetting>>> {
    let Some(client) = reach::daemon(&global.socket).await? else {
        remark("no daemon answers: this is what one would go by that starts now, without options");
        return Ok(None);
    };
    let reply = client
        .admin()
        .show_config(ShowConfigRequest {})
        .await
        .map_err(ClientError::of("ShowConfig"))?;
    Ok(Some(reply.into_inner().settings))
}

fn of_files(loaded: &Loaded) -> Vec<ConfigSetting> {
    let values = loaded.config.values().into_iter();
    let settings = values.map(|(key, value)| ConfigSetting {
        key: key.name.to_owned(),
        value,
        origin: loaded.origin(key).to_string(),
        live: key.effect == Effect::Live,
        pending: None,
    });
    settings.collect()
}

#[derive(Serialize)]
struct Setting<'a> {
    key: &'a str,
    value: serde_json::Value,
    origin: &'a str,
    live: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<serde_json::Value>,
}

fn setting_row(setting: &ConfigSetting) -> anyhow::Result<Row> {
    let tone = if setting.origin == "default" {
        Tone::Faint
    } else {
        Tone::Plain
    };
    let counts = if setting.live { "live" } else { "after a restart" };
    let value = Setting {
        key: &setting.key,
        value: config::of_toml(&setting.value),
        origin: &setting.origin,
        live: setting.live,
        pending: setting.pending.as_deref().map(config::of_toml),
    };
    Ok(Row {
        cells: vec![
            Cell::toned(&setting.key, Tone::Name),
            setting.value.as_str().into(),
            Cell::toned(&setting.origin, tone),
            counts.into(),
        ],
        value: serde_json::to_value(value)?,
        name: format!("setting/{}", setting.key),
        key: setting.key.clone(),
    })
}

async fn reload(client: &Client, screen: &Screen) -> anyhow::Result<ExitCode> {
    let reply = client.admin().reload_config(ReloadConfigRequest {}).await;
    let reply = match reply.map_err(ClientError::of("ReloadConfig")) {
        Ok(reply) => reply.into_inner(),
        Err(error) if error.kind() == Kind::FailedPrecondition => {
            complain(&anyhow::Error::new(error).context("the daemon goes on with the configuration it has"));
            return Ok(EXIT_CONFIG.into());
        }
        Err(error) => return Err(error.into()),
    };
    tell_reloaded(&reply, screen)?;
    Ok(ExitCode::SUCCESS)
}

fn tell_reloaded(reply: &ReloadConfigResponse, screen: &Screen) -> anyhow::Result<()> {
    let applied = reply.applied.iter().map(|change| (change, "now"));
    let later = reply
        .needs_restart
        .iter()
        .map(|change| (change, "after a restart"));
    let rows = applied
        .chain(later)
        .map(|(change, counts)| change_row(change, counts));
    screen.listing(&Listing {
        columns: CHANGES.to_vec(),
        rows: rows.collect::<Result<_, _>>()?,
        nothing: "nothing differs from what is in force".to_owned(),
    })
}

#[derive(Serialize)]
struct Changed<'a> {
    key: &'a str,
    counts: &'a str,
    from: serde_json::Value,
    to: serde_json::Value,
}

fn change_row(change: &ConfigChange, counts: &'static str) -> anyhow::Result<Row> {
    let tone = if counts == "now" { Tone::Good } else { Tone::Costs };
    let value = Changed {
        key: &change.key,
        counts,
        from: config::of_toml(&change.from),
        to: config::of_toml(&change.to),
    };
    Ok(Row {
        cells: vec![
            Cell::toned(&change.key, Tone::Name),
            Cell::toned(counts, tone),
            change.from.as_str().into(),
            change.to.as_str().into(),
        ],
        value: serde_json::to_value(value)?,
        name: format!("setting/{}", change.key),
        key: change.key.clone(),
    })
}

/// Changes what is logged, or tells what is.
pub(crate) async fn log_level(client: &Client, args: &LogLevelArgs, screen: &Screen) -> anyhow::Result<()> {
    let Some(filter) = &args.filter else {
        let reply = client.admin().show_config(ShowConfigRequest {}).await;
        let settings = reply
            .map_err(ClientError::of("ShowConfig"))?
            .into_inner()
            .settings;
        let setting = settings
            .iter()
            .find(|setting| setting.key == "log.level")
            .context("the daemon does not say what it logs")?;
        return tell_log_level(setting, screen);
    };
    let request = SetLogLevelRequest {
        filter: filter.clone(),
    };
    let reply = client.admin().set_log_level(request).await;
    let reply = reply.map_err(ClientError::of("SetLogLevel"));
    let before = reply.map_err(|error| not_set(error, filter))?.into_inner().before;
    match screen.output {
        Output::Json | Output::Yaml => {
            screen.value(&serde_json::json!({ "filter": filter, "before": before }))
        }
        Output::Name => Ok(screen.line(filter)?),
        Output::Table | Output::Wide => Ok(screen.line(format!(
            "{filter}, was {before}; until `coracle config reload` or a restart of the daemon"
        ))?),
    }
}

fn tell_log_level(setting: &ConfigSetting, screen: &Screen) -> anyhow::Result<()> {
    let (filter, origin) = (plain(&setting.value), &setting.origin);
    match screen.output {
        Output::Json | Output::Yaml => {
            screen.value(&serde_json::json!({ "filter": filter, "origin": origin }))
        }
        Output::Name => Ok(screen.line(filter)?),
        Output::Table | Output::Wide => Ok(screen.line(format!("{filter} ({origin})"))?),
    }
}

/// A setting's text without the quotes in which TOML has it; of another kind it stays as it is written.
fn plain(value: &str) -> String {
    let read = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let text = read
        .ok()
        .and_then(|table| Some(table.get("value")?.as_str()?.to_owned()));
    text.unwrap_or_else(|| value.to_owned())
}

/// What the daemon keeps of an exec's output at most, in bytes; `None` of another runtime.
pub(crate) async fn max_exec_output(client: &Client) -> Option<u64> {
    let reply = client.admin().show_config(ShowConfigRequest {}).await.ok()?;
    let settings = reply.into_inner().settings;
    let setting = settings.iter().find(|setting| setting.key == "exec.max_output")?;
    plain(&setting.value).parse::<ByteSize>().ok().map(|size| size.0)
}

/// A filter that is none is a mistake of the command line.
fn not_set(error: ClientError, filter: &str) -> anyhow::Error {
    if error.kind() != Kind::InvalidArgument {
        return error.into();
    }
    let trouble = Trouble::new(format!("{filter:?} is no filter of what is logged"))
        .next("give error, warn, info, debug, trace or off, or a filter such as info,coracle_engine=debug")
        .status(Status::Usage);
    anyhow::Error::new(error).context(trouble)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::terminal::forms::{forms, uncut_forms};

    #[test]
    fn what_is_logged_in_every_form() {
        let level = setting(
            "log.level",
            "\"info,coracle_engine=debug\"",
            "default",
            true,
            None,
        );
        insta::assert_snapshot!(uncut_forms(|screen| tell_log_level(&level, screen)));
    }

    #[test]
    fn texts_lose_their_quotes() {
        for (written, plainly) in [
            ("\"16MB\"", "16MB"),
            ("'a\"b'", "a\"b"),
            ("12", "12"),
            ("[1]", "[1]"),
            ("x", "x"),
        ] {
            assert_eq!(plain(written), plainly);
        }
    }

    fn setting(key: &str, value: &str, origin: &str, live: bool, pending: Option<&str>) -> ConfigSetting {
        ConfigSetting {
            key: key.to_owned(),
            value: value.to_owned(),
            origin: origin.to_owned(),
            live,
            pending: pending.map(str::to_owned),
        }
    }

    #[test]
    fn a_filter_that_is_none_is_a_mistake_of_the_command_line() {
        let failed = |code| ClientError::of("SetLogLevel")(tonic::Status::new(code, "no"));
        let status = |code| crate::terminal::status_of(&not_set(failed(code), "loud"));
        assert_eq!(status(tonic::Code::InvalidArgument), Status::Usage);
        assert_eq!(status(tonic::Code::Unavailable), Status::Unreachable);
    }

    #[test]
    fn settings_in_every_form() {
        let settings = [
            setting(
                "root",
                "\"/var/lib/coracle\"",
                "default",
                false,
                Some("\"/srv/coracle\""),
            ),
            setting(
                "registry.config_dirs",
                "[\"/etc/coracle/certs.d\", \"/etc/containerd/certs.d\"]",
                "/etc/coracle/config.toml:12",
                true,
                None,
            ),
            setting(
                "registry.attempts",
                "7",
                "environment CORACLE_REGISTRY_ATTEMPTS",
                true,
                None,
            ),
        ];
        insta::assert_snapshot!(forms(|screen| tell_settings(settings.iter(), screen)));
    }

    #[test]
    fn a_reload_in_every_form() {
        let change = |key: &str, from: &str, to: &str| ConfigChange {
            key: key.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
        };
        let reply = ReloadConfigResponse {
            applied: vec![change("log.level", "\"info\"", "\"debug\"")],
            needs_restart: vec![change("root", "\"/var/lib/coracle\"", "\"/srv/coracle\"")],
            ..ReloadConfigResponse::default()
        };
        insta::assert_snapshot!(forms(|screen| tell_reloaded(&reply, screen)));
    }

    #[test]
    fn a_check_in_every_form() {
        let file = PathBuf::from("/etc/coracle/config.toml");
        let problem = |line: usize, words: &str| Problem {
            origin: Origin::File(file.clone(), Some(line)),
            message: words.to_owned(),
        };
        let problems = [
            problem(2, "rooot: unknown key: did you mean root?"),
            problem(7, "registry.attempts = 0: write a number from 1 to 1000"),
        ];
        insta::assert_snapshot!(
            "no_mistake_in_every_form",
            uncut_forms(|screen| tell_good(
                &[file.clone(), "/etc/coracle/config.d/50-mine.toml".into()],
                screen
            ))
        );
        insta::assert_snapshot!(
            "no_file_in_every_form",
            uncut_forms(|screen| tell_good(&[], screen))
        );
        insta::assert_snapshot!(
            "mistakes_for_programs",
            uncut_forms(|screen| match screen.output {
                Output::Json | Output::Yaml => tell_mistakes(&problems, screen),
                // For people they are an error, on standard error.
                _ => Ok(()),
            })
        );
        insta::assert_snapshot!("mistakes_for_people", Rejected(problems.to_vec()).to_string());
    }
}
