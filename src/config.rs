//! Settings that nobody types: `/etc/mldoctor.toml`, then `MLDOCTOR_*`, then options, of which the later is stronger.
//!
//! There is no second list of settings. A key of the file is the long name of an option (`workload` names the targets),
//! a variable is that name in capitals, and what is set becomes the option's default before the command line is read.
//! A key at the top holds for every command that has the option and takes the value; one in a table such as `[health]`
//! only for that command. A default conflicts with nothing, so an option always wins.
//!
//! With `--root`, what the image is for (`workload`, `require`, `python`) is asked of the image's own file, and how
//! to examine and report of this machine's: an image must not be able to hide its faults.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use toml::de::{DeTable, DeValue};

use crate::cli::Cli;
use crate::image::{FileError, Rootfs};
use crate::observe;
use crate::suggestion::{nearest, slip};

/// Where the file is unless `--config` names another.
pub const PATH: &str = "/etc/mldoctor.toml";
/// How variables begin.
const PREFIX: &str = "MLDOCTOR_";
/// Variables that are no options: where the memory between runs is, and what `exec` gives the workload.
const OTHER_VARIABLES: [&str; 3] = ["MLDOCTOR_STATE_DIR", "MLDOCTOR_VERDICT", "MLDOCTOR_FINDINGS"];
/// Settings that an image has a say in.
const OF_IMAGE: [&str; 3] = ["workload", "require", "python"];
/// Options that choose what is read, and so cannot be read there.
const NOT_SETTINGS: [&str; 3] = ["config", "root", "facts"];
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Reads the command line with all that is set elsewhere.
///
/// # Errors
/// A [`clap::Error`] for a wrong command line, help included; the place and the reason for a wrong setting.
pub fn parse(arguments: &[OsString], variable: &dyn Fn(&str) -> Option<OsString>) -> anyhow::Result<Cli> {
    let command = Cli::command();
    let typed = command.clone().try_get_matches_from(arguments)?;
    let slip = mistyped(&command, &typed);
    let (name, of_command) = typed.subcommand().unwrap_or(("check", &typed));
    if !commands(&command).iter().any(|c| c.get_name() == name) {
        return Ok(Cli::from_arg_matches(&typed)?);
    }
    let (file, image) = files(of_command)?;
    let is_of_image = |s: &Setting| OF_IMAGE.contains(&s.key.as_str());
    let mut settings = Vec::new();
    if let Some(image) = &image {
        settings.extend(image.source.settings(&command, name)?.into_iter().filter(is_of_image));
    }
    if let Some(file) = file {
        let all = image.is_none() || file.named;
        settings.extend(file.settings(&command, name)?.into_iter().filter(|s| all || !is_of_image(s)));
    }
    let chosen = find_command(&command, name).unwrap_or(&command);
    let mut refused = None;
    // clap would look at a default that nobody needs, too.
    let is_typed = |o: &Arg| of_command.value_source(o.get_id().as_str()) == Some(ValueSource::CommandLine);
    for option in options(chosen).filter(|o| !has_own_variable(name, o) && !is_typed(o)) {
        let key = key(option);
        let variable_name = variable_of(option);
        let Some(value) = variable(&variable_name) else { continue };
        if !value.is_empty() {
            let setting = Setting::of_variable(option, key, value);
            refused = refused.or_else(|| Some(format!("{variable_name}: {}", refusal(chosen, &setting)?)));
            settings.push(setting);
        }
    }
    let matches = if settings.is_empty() {
        typed
    } else {
        let defaults = settings.into_iter().fold(command, |command, setting| setting.apply(command, name));
        // What was typed is in order, so it is a setting that is not; clap only knows of the option that it is for.
        defaults.try_get_matches_from(arguments).map_err(|e| refused.map_or(e.into(), anyhow::Error::msg))?
    };
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.check.slip = slip;
    if let Some(subject) = cli.subject_mut() {
        subject.opened = image.map(|image| image.rootfs);
    }
    Ok(cli)
}

/// What is to be told of variables that are none, but nearly: one that is misspelt would have no effect, and nobody would
/// know. Others that begin with `MLDOCTOR_` are no mistakes: Kubernetes sets some beside a Service of that name.
pub fn misspelt_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let own: Vec<String> = names.filter_map(|n| n.into_string().ok()).filter(|n| n.starts_with(PREFIX)).collect();
    if own.is_empty() {
        return Vec::new();
    }
    let command = Cli::command();
    let commands = commands(&command);
    let settings = commands.iter().flat_map(|c| options(c)).map(variable_of);
    let named = commands.iter().flat_map(|c| c.get_arguments()).filter_map(|a| Some(a.get_env()?.to_str()?.to_owned()));
    let known: Vec<String> = settings.chain(named).chain(OTHER_VARIABLES.map(str::to_owned)).collect();
    let meant = |name: &str| slip(name.strip_prefix(PREFIX)?, known.iter().filter_map(|k| k.strip_prefix(PREFIX)));
    let told = |name: &String| Some(format!("{name} has no effect; is {PREFIX}{} meant?", meant(name)?));
    own.iter().filter(|name| !known.contains(name)).filter_map(told).collect()
}

/// The command that the first word may have been meant for, where no command is named.
fn mistyped(command: &Command, typed: &ArgMatches) -> Option<String> {
    let is_typed = typed.value_source("targets") == Some(ValueSource::CommandLine) && typed.subcommand().is_none();
    let first = typed.get_many::<String>("targets").filter(|_| is_typed)?.next()?;
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set()).map(Command::get_name);
    slip(first, shown).map(str::to_owned)
}

/// One thing that is set.
struct Setting {
    key: String,
    values: Vec<OsString>,
}

impl Setting {
    fn of_variable(option: &Arg, key: &str, value: OsString) -> Self {
        let values = match (option.get_value_delimiter(), value.to_str()) {
            (Some(delimiter), Some(text)) => text.split(delimiter).map(OsString::from).collect(),
            _ => vec![value],
        };
        Self { key: key.to_owned(), values }
    }

    /// The command with this as default of the option. clap keeps defaults for as long as the process lives.
    fn apply(self, command: Command, name: &str) -> Command {
        let values: Vec<&'static std::ffi::OsStr> =
            self.values.into_iter().map(|v| &*Box::leak(v.into_boxed_os_str())).collect();
        let set = |arg: Arg| {
            if !is_setting(&arg) || key(&arg) != self.key {
                return arg;
            }
            if is_flag(&arg) {
                let arg = arg.value_parser(clap::builder::BoolishValueParser::new());
                return arg.default_values(values.iter().copied());
            }
            arg.default_values(values.iter().copied())
        };
        let command = command.mut_subcommands(|c| if c.get_name() == name { c.mut_args(set) } else { c });
        if name == "check" { command.mut_args(set) } else { command }
    }
}

/// A file of settings.
struct Source {
    /// For messages.
    path: PathBuf,
    text: String,
    /// Whether `--config` named it, so that all of it is meant.
    named: bool,
}

/// An image that brings settings.
struct Image {
    rootfs: Rootfs,
    source: Source,
}

/// This machine's file, if any, and that of the image, if one is examined.
fn files(arguments: &ArgMatches) -> anyhow::Result<(Option<Source>, Option<Image>)> {
    let named = arguments.get_one::<PathBuf>("config");
    let path = named.map_or(Path::new(PATH), PathBuf::as_path);
    let file = match std::fs::read_to_string(path) {
        Ok(text) => Some(Source { path: path.to_owned(), text, named: named.is_some() }),
        Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let Some(root) = arguments.get_one::<PathBuf>("root").filter(|root| *root != Path::new("/")) else {
        return Ok((file, None));
    };
    let rootfs = Rootfs::open_image(root).map_err(|e| observe::Error::Root(root.clone(), e))?;
    let path = root.join(PATH.trim_start_matches('/'));
    let text = match rootfs.read_text(Path::new(PATH), MAX_FILE) {
        Ok(text) => text,
        Err(FileError::NotFound) => String::new(),
        Err(e) => bail!("cannot read {}: {e}", path.display()),
    };
    Ok((file, Some(Image { rootfs, source: Source { path, text, named: false } })))
}

impl Source {
    /// Everything in the file, checked; what is for the command `name` is given back.
    fn settings(&self, command: &Command, name: &str) -> anyhow::Result<Vec<Setting>> {
        let root = DeTable::parse(&self.text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start);
            anyhow::anyhow!("{}: {}", self.place(at), e.message())
        })?;
        let commands = commands(command);
        let mut settings = Vec::new();
        let mut own = Vec::new();
        for (key, value) in root.get_ref() {
            let place = self.place(key.span().start);
            if let DeValue::Table(table) = value.get_ref() {
                let Some(of) = commands.iter().find(|c| c.get_name() == key.get_ref().as_ref()) else {
                    bail!("{place}: there is no command {}{}", key.get_ref(), nearest(key.get_ref(), names(&commands)));
                };
                for (key, value) in table {
                    let place = self.place(key.span().start);
                    let setting = setting(&place, key.get_ref(), value.get_ref(), &[of])?;
                    own.extend(setting.filter(|_| of.get_name() == name));
                }
            } else {
                let having: Vec<&Command> =
                    commands.iter().copied().filter(|c| option(c, key.get_ref()).is_some()).collect();
                if having.is_empty() {
                    let all = commands.iter().flat_map(|c| options(c)).map(self::key);
                    bail!("{place}: there is no option {}{}", key.get_ref(), nearest(key.get_ref(), all));
                }
                let accepted = setting(&place, key.get_ref(), value.get_ref(), &having)?;
                let chosen = having.iter().find(|c| c.get_name() == name);
                let is_for_all = |c: &Command| option(c, key.get_ref()).is_some_and(|o| !has_own_variable(name, o));
                let takes = |s: &Setting| chosen.is_some_and(|c| is_for_all(c) && refusal(c, s).is_none());
                settings.extend(accepted.filter(takes));
            }
        }
        settings.append(&mut own);
        Ok(settings)
    }

    fn place(&self, offset: usize) -> String {
        let line = self.text.get(..offset).unwrap_or("").matches('\n').count() + 1;
        format!("{}:{line}", self.path.display())
    }
}

/// A key and its value, if at least one of the commands takes it.
fn setting(place: &str, key: &str, value: &DeValue<'_>, of: &[&Command]) -> anyhow::Result<Option<Setting>> {
    let Some(option) = of.iter().find_map(|c| option(c, key)) else {
        let all = of.iter().flat_map(|c| options(c)).map(self::key);
        bail!("{place}: there is no option {key} here{}", nearest(key, all));
    };
    let many = matches!(option.get_action(), ArgAction::Append);
    let texts: Option<Vec<Cow<'_, str>>> = match value {
        DeValue::Boolean(is) if is_flag(option) => Some(vec![is.to_string().into()]),
        _ if is_flag(option) => bail!("{place}: {key} is true or false"),
        DeValue::Array(list) if many => list.iter().map(|v| scalar(v.get_ref())).collect(),
        one => scalar(one).map(|text| vec![text]),
    };
    let Some(texts) = texts else {
        bail!("{place}: {key} is {}", if many { "a list of texts" } else { "a text or a whole number" });
    };
    let setting = Setting { key: key.to_owned(), values: texts.iter().map(|t| OsString::from(&**t)).collect() };
    // The first command, `check`, takes most and so names most of what is possible.
    let refusals: Option<Vec<String>> = of.iter().map(|c| refusal(c, &setting)).collect();
    match refusals.and_then(|all| all.into_iter().next()) {
        Some(why) => bail!("{place}: {why}"),
        None => Ok(Some(setting)),
    }
}

fn scalar<'v>(value: &'v DeValue<'_>) -> Option<Cow<'v, str>> {
    match value {
        DeValue::String(text) => Some(text.as_ref().into()),
        DeValue::Integer(number) => Some(number.to_string().into()),
        _ => None,
    }
}

/// What the command says against a value.
fn refusal(command: &Command, setting: &Setting) -> Option<String> {
    let option = option(command, &setting.key)?;
    if is_flag(option) {
        return None;
    }
    let mut arguments = vec![OsString::from(command.get_name())];
    for value in &setting.values {
        let mut argument = OsString::new();
        if option.get_long().is_some() {
            argument.push(format!("--{}=", setting.key));
        }
        argument.push(value);
        arguments.push(argument);
    }
    let error = command.clone().try_get_matches_from(arguments).err()?;
    // What else the command wants is told when it is typed.
    let text =
        matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation).then(|| error.to_string())?;
    let reason = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ");
    Some(reason.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Commands that settings are for: those that examine something.
fn commands(command: &Command) -> Vec<&Command> {
    command.get_subcommands().filter(|c| c.get_arguments().any(|a| a.get_id() == "config")).collect()
}

fn find_command<'c>(command: &'c Command, name: &str) -> Option<&'c Command> {
    commands(command).into_iter().find(|c| c.get_name() == name)
}

fn names<'c>(commands: &[&'c Command]) -> impl Iterator<Item = &'c str> {
    commands.iter().map(|c| c.get_name())
}

/// Whether the option means something else for this command than for others, such as the deadline of `health`, which has
/// a variable of its own: then what is set for all commands is not for it.
fn has_own_variable(command: &str, option: &Arg) -> bool {
    let own = format!("{PREFIX}{command}_{}", key(option)).to_uppercase().replace('-', "_");
    option.get_env().is_some_and(|name| name == OsStr::new(&own))
}

/// The variable that sets an option.
fn variable_of(option: &Arg) -> String {
    format!("{PREFIX}{}", key(option)).to_uppercase().replace('-', "_")
}

/// Name of the option as a setting: the targets have none of their own.
fn key(option: &Arg) -> &str {
    option.get_long().unwrap_or("workload")
}

fn is_setting(option: &Arg) -> bool {
    let is_workload = option.get_long().is_none() && option.get_id() == "targets";
    is_workload || option.get_long().is_some_and(|long| !NOT_SETTINGS.contains(&long))
}

fn is_flag(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue)
}

fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|a| is_setting(a))
}

fn option<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    options(command).find(|a| key(a) == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Check, Command};
    use crate::report::ReportFormat;

    fn parsed(config: &str, typed: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Cli> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, config).unwrap();
        let mut arguments: Vec<OsString> = ["mldoctor", "check", "--config"].map(Into::into).into();
        arguments.push(path.into());
        arguments.extend(typed.iter().map(Into::into));
        let variable =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| OsString::from(value));
        parse(&arguments, &variable)
    }

    fn check(config: &str, typed: &[&str], variables: &[(&str, &str)]) -> Check {
        match parsed(config, typed, variables).unwrap().command {
            Some(Command::Check(check)) => check,
            other => panic!("{other:?}"),
        }
    }

    fn refused(config: &str) -> String {
        let error = format!("{:#}", parsed(config, &[], &[]).unwrap_err());
        error.rsplit_once("c.toml").unwrap().1.to_owned()
    }

    #[test]
    fn a_wrong_value_is_said_to_come_from_where_it_does() {
        let wrong = [("MLDOCTOR_FORMAT", "junti")];
        let error = parsed("", &[], &wrong).unwrap_err().to_string();
        assert!(error.starts_with("MLDOCTOR_FORMAT: invalid value 'junti'"), "{error}");
        assert_eq!(check("", &["--format", "npd"], &wrong).format, ReportFormat::Npd);
        let error = refused("format = 'junti'");
        assert!(error.starts_with(":1: invalid value 'junti'") && error.contains("junit"), "{error}");
    }

    #[test]
    fn options_are_stronger_than_variables_and_they_than_the_file() {
        let config =
            "workload = ['torch', 'vllm']\nformat = 'junit'\nrequire = 'torch.conv'\ndeadline = 3\ndeep = true\n";
        let file = check(config, &[], &[]);
        assert_eq!(file.subject.targets, ["torch", "vllm"]);
        assert_eq!(file.subject.require, ["torch.conv"]);
        assert_eq!(file.trial.deadline.as_secs(), 3);
        assert_eq!((file.format, file.trial.deep), (ReportFormat::Junit, true));

        let variables =
            [("MLDOCTOR_REQUIRE", "torch.fft,torch.jit"), ("MLDOCTOR_DEEP", "0"), ("MLDOCTOR_FORMAT", "npd")];
        let environment = check(config, &[], &variables);
        assert_eq!(environment.subject.require, ["torch.fft", "torch.jit"]);
        assert_eq!((environment.format, environment.trial.deep), (ReportFormat::Npd, false));

        let typed = check(config, &["--require", "gpu", "--image", "--format", "json", "jax"], &variables);
        assert_eq!((typed.subject.targets, typed.subject.require), (vec!["jax".to_owned()], vec!["gpu".to_owned()]));
        assert_eq!((typed.format, typed.subject.image), (ReportFormat::Json, true));
    }

    #[test]
    fn a_misspelt_variable_is_told() {
        let told = |name: &str| misspelt_variables([OsString::from(name)].into_iter());
        assert_eq!(told("MLDOCTOR_REQIRE"), ["MLDOCTOR_REQIRE has no effect; is MLDOCTOR_REQUIRE meant?"]);
        assert_eq!(told("MLDOCTOR_WORKLOADS"), ["MLDOCTOR_WORKLOADS has no effect; is MLDOCTOR_WORKLOAD meant?"]);
        assert_eq!(told("MLDOCTOR_ASUME_GPU"), ["MLDOCTOR_ASUME_GPU has no effect; is MLDOCTOR_ASSUME_GPU meant?"]);
        let service = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"];
        let others = ["REQUIRE", "DEADLINE", "HEALTH_DEADLINE", "STATE_DIR", "VERDICT", "TEST_ALL"];
        for name in service.iter().chain(&others) {
            assert_eq!(told(&format!("MLDOCTOR_{name}")), [""; 0], "{name}");
        }
        assert_eq!(told("REQIRE"), [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (config, expected) in [
            ("\n\nrequires = 'x'", ":3: there is no option requires; is require meant?"),
            ("root = '/x'", ":1: there is no option root"),
            ("deep = 'yes'", ":1: deep is true or false"),
            ("\ndeadline = 1.5", ":2: deadline is a text or a whole number"),
            ("deadline = ['1s']", ":1: deadline is a text or a whole number"),
            ("require = [1.5]", ":1: require is a list of texts"),
            ("format = 'jsn'", ":1: invalid value 'jsn' for '--format <FORMAT>'"),
            ("deadline = '1 parsec'", ":1: invalid value '1 parsec' for '--deadline <DURATION>'"),
            ("[chek]\ndeep = true", ":1: there is no command chek; is check meant?"),
            ("[check]\ndep = true", ":2: there is no option dep here; is deep meant?"),
            ("\n= 1", ":2: "),
        ] {
            let told = refused(config);
            assert!(told.starts_with(expected), "{config:?}: {told:?}");
        }
    }

    #[test]
    fn a_table_is_for_its_command_and_a_value_for_those_that_take_it() {
        let both = check("format = 'npd'\n[check]\nformat = 'sarif'\n[libs]\nformat = 'json'\n", &[], &[]);
        assert_eq!(both.format, ReportFormat::Sarif);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "format = 'npd'\n").unwrap();
        let arguments = ["mldoctor".into(), "libs".into(), "--config".into(), path.into_os_string()];
        let Some(Command::Libs(libs)) = parse(&arguments, &|_| None).unwrap().command else { panic!() };
        assert_eq!(libs.format, crate::cli::Format::Text);
    }

    #[test]
    fn the_deadline_of_health_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let deadline = |config: &str| {
            std::fs::write(&path, config).unwrap();
            let arguments = ["mldoctor".into(), "health".into(), "--config".into(), path.clone().into_os_string()];
            let general = |name: &str| (name == "MLDOCTOR_DEADLINE").then(|| "20".into());
            match parse(&arguments, &general).unwrap().command {
                Some(Command::Health(health)) => health.deadline.as_millis(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(deadline("deadline = 10\n"), 900);
        assert_eq!(deadline("[health]\ndeadline = '700ms'\n"), 700);
    }

    #[test]
    fn an_image_says_what_it_is_for_and_not_how_it_is_judged() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let config = "workload = 'torch'\nskip = 'lib-cupti'\nreport-only = true\n";
        std::fs::write(root.path().join("etc/mldoctor.toml"), config).unwrap();
        let arguments = ["mldoctor".into(), "--root".into(), root.path().as_os_str().to_owned()];
        let cli = parse(&arguments, &|_| None).unwrap();
        assert_eq!(cli.check.subject.targets, ["torch"]);
        assert!(cli.check.skip.is_empty() && !cli.check.report_only);
    }
}
