//! Manual pages and shell completions, made from the command line that the program itself reads. They lie beside the
//! shipped files and not in them: an image has no use for either.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use mldoctor::cli::Cli;

/// Shells that get a file, which each of them looks for under a name of its own.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes `man/mldoctor*.1` and `completions/` below a directory.
pub fn write(dist: &Path) -> anyhow::Result<()> {
    let man = dist.join("man");
    let completions = dist.join("completions");
    for dir in [&man, &completions] {
        fs::create_dir_all(dir)?;
    }
    clap_mangen::generate_to(Cli::command(), &man)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut visible(&Cli::command()), "mldoctor", &completions)?;
    }
    Ok(())
}

/// The command without what it starts itself by only; clap_complete would offer that too.
fn visible(command: &Command) -> Command {
    let subcommands = command.get_subcommands().filter(|c| !c.is_hide_set()).cloned();
    Command::new("mldoctor")
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().cloned())
        .subcommands(subcommands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Output;

    /// Of a shell, a script and its arguments; nothing where the shell is not installed.
    fn run(program: &str, arguments: &[&str]) -> Option<String> {
        let result = std::process::Command::new(program).args(arguments).env("MANWIDTH", "80").output();
        let Ok(Output { status, stdout, stderr }) = result else {
            println!("skipped: {program} is not installed");
            return None;
        };
        assert!(status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        Some(String::from_utf8(stdout).expect("text"))
    }

    fn written() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path()).expect("written");
        dir
    }

    /// Subcommands that are shown, and those that are not.
    fn subcommands() -> (Vec<String>, Vec<String>) {
        let command = Cli::command();
        let (hidden, shown): (Vec<&Command>, _) = command.get_subcommands().partition(|c| c.is_hide_set());
        let names = |of: Vec<&Command>| of.iter().map(|c| c.get_name().to_owned()).collect();
        (names(shown), names(hidden))
    }

    #[test]
    fn bash_completes_commands_options_and_values() {
        let dir = written();
        let script = dir.path().join("completions/mldoctor.bash");
        let complete = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                        function=$(complete -p mldoctor | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
                        $function mldoctor \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
                        echo \"${COMPREPLY[@]}\"";
        let offered = |words: &[&str]| {
            let fixed = ["--norc", "-c", complete, "bash", script.to_str().expect("text"), "mldoctor"];
            run("bash", &[&fixed, words].concat())
        };
        let Some(health) = offered(&["hea"]) else { return };
        assert_eq!(health, "health\n");
        assert_eq!(offered(&["health", "--tol"]).as_deref(), Some("--tolerate-slow-driver\n"));
        assert_eq!(offered(&["check", "--format", "ju"]).as_deref(), Some("junit\n"));
        let all = offered(&[""]).expect("bash is installed");
        let (shown, hidden) = subcommands();
        let offers = |name: &String| all.split_whitespace().any(|word| word == name);
        assert!(shown.iter().all(offers), "{all}");
        assert!(!hidden.is_empty() && !hidden.iter().any(offers), "{all}");
    }

    #[test]
    fn zsh_and_fish_read_their_files() {
        let dir = written();
        let file = |name: &str| dir.path().join("completions").join(name).to_string_lossy().into_owned();
        run("zsh", &["-n", &file("_mldoctor")]);
        let list = "source $argv[1]; complete --do-complete 'mldoctor health --tol'";
        if let Some(offered) = run("fish", &["-c", list, "--", &file("mldoctor.fish")]) {
            assert!(offered.starts_with("--tolerate-slow-driver"), "{offered}");
        }
    }

    #[test]
    fn the_manual_has_every_command() {
        let dir = written();
        let page = |name: &str| dir.path().join("man").join(name).to_string_lossy().into_owned();
        let (shown, hidden) = subcommands();
        let files = fs::read_dir(dir.path().join("man")).expect("a directory").count();
        assert_eq!(files, shown.len() + 1);
        let Some(main) = run("man", &["-l", &page("mldoctor.1")]) else { return };
        for name in &shown {
            assert!(main.contains(&format!("mldoctor-{name}(1)")), "{name}: {main}");
            let own = run("man", &["-l", &page(&format!("mldoctor-{name}.1"))]).expect("man is installed");
            assert!(own.contains("SYNOPSIS") && own.contains(&format!("mldoctor-{name}")), "{own}");
        }
        for name in hidden {
            assert!(!main.contains(&name), "{name}: {main}");
        }
        if let Some(said) = run("mandoc", &["-T", "lint", "-W", "error", &page("mldoctor.1")]) {
            assert_eq!(said, "");
        }
    }
}
