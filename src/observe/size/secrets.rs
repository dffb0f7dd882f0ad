//! Credentials that lie in an image. Where they are and of what kind they are is told; what they are never leaves this
//! module.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::in_python_packages;
use crate::facts::size::Secret;
use crate::image::{EntryKind, Rootfs, Tree};
use crate::observe::environment::is_secret;

/// Largest file read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// How a credential is known.
#[derive(Clone, Copy)]
enum Form {
    /// A URL with a user and a password in it.
    Url,
    /// A word, and then the secret: `password x`, `password = x`, `"password": "x"`.
    Word(&'static [&'static str]),
    /// A variable with the name of a secret.
    Variable,
    /// The header of a private key.
    PrivateKey,
    /// The whole file is one.
    Whole,
}

/// Ends of paths, with what is to be found there. `*` at either side of a file's name stands for anything.
const PLACES: [(&str, Form, &str); 33] = [
    (".netrc", Form::Word(&["password"]), "a password"),
    ("auth.conf", Form::Word(&["password"]), "a password"),
    ("auth.conf.d/*", Form::Word(&["password"]), "a password"),
    (".pgpass", Form::Whole, "passwords of databases"),
    (".npmrc", Form::Word(&["_authToken", "_auth", "_password"]), "a token of a package registry"),
    (".pypirc", Form::Word(&["password"]), "a password of a package index"),
    (".git-credentials", Form::Url, "a URL with a password"),
    (".git/config", Form::Url, "a URL with a password"),
    ("pip.conf", Form::Url, "a URL with a password"),
    (".pip/pip.conf", Form::Url, "a URL with a password"),
    ("uv.toml", Form::Url, "a URL with a password"),
    (".condarc", Form::Url, "a URL with a password"),
    ("direct_url.json", Form::Url, "a URL with a password"),
    ("sources.list", Form::Url, "a URL with a password"),
    ("sources.list.d/*", Form::Url, "a URL with a password"),
    ("apt.conf", Form::Url, "a URL with a password"),
    ("apt.conf.d/*", Form::Url, "a URL with a password"),
    ("yum.repos.d/*", Form::Url, "a URL with a password"),
    ("etc/apk/repositories", Form::Url, "a URL with a password"),
    (".aws/credentials", Form::Word(&["aws_secret_access_key", "aws_session_token"]), "a key of AWS"),
    (".docker/config.json", Form::Word(&["auth", "identitytoken"]), "a login of a container registry"),
    ("application_default_credentials.json", Form::Word(&["refresh_token", "private_key"]), "a key of Google Cloud"),
    (".azure/msal_token_cache.json", Form::Word(&["secret"]), "a token of Azure"),
    (".kube/config", Form::Word(&["token", "client-key-data", "password"]), "a key of a Kubernetes cluster"),
    (".config/gh/hosts.yml", Form::Word(&["oauth_token"]), "a token of GitHub"),
    (".kaggle/kaggle.json", Form::Word(&["key"]), "a key of Kaggle"),
    (".cache/huggingface/token", Form::Whole, "a token of Hugging Face"),
    (".huggingface/token", Form::Whole, "a token of Hugging Face"),
    (".env", Form::Variable, "a secret by its name"),
    (".ssh/id_*", Form::PrivateKey, "a private key"),
    ("ssh_host_*", Form::PrivateKey, "the private key of an SSH server"),
    ("*.pem", Form::PrivateKey, "a private key"),
    ("*.key", Form::PrivateKey, "a private key"),
];

/// Looks into the files that may hold one.
pub fn find(rootfs: &Rootfs, tree: &Tree) -> Vec<Secret> {
    let mut found = Vec::new();
    let named = PLACES.map(|place| (place, Pattern::of(place.0)));
    for dir in &tree.dirs {
        // Most places are files in any directory; a few are all files of one.
        let places: Vec<_> = named.iter().filter(|((place, ..), _)| is_in(place, &dir.path)).collect();
        for at in dir.files.clone() {
            let entry = &tree.files[at].entry;
            let name = entry.name.as_bytes();
            let Some(((_, form, what), _)) = places.iter().find(|(_, pattern)| pattern.matches(name)) else { continue };
            // Keys that come with packages are for their tests.
            if entry.kind != EntryKind::File || (matches!(form, Form::PrivateKey) && is_of_a_package(&dir.path)) {
                continue;
            }
            let names = [(at, entry.name.as_os_str())].into_iter();
            let _ = rootfs.read_files(&dir.path, names, MAX_FILE, |at, data| {
                let line = line_of(*form, data);
                let place = || tree.path(at).to_string_lossy().into_owned();
                found.extend(line.map(|line| Secret { place: place(), at: line.to_string(), what }));
            });
        }
    }
    found
}

/// Whether files of a directory may be at a place.
fn is_in(place: &str, dir: &Path) -> bool {
    place.rsplit_once('/').is_none_or(|(of, _)| dir.ends_with(of))
}

fn is_of_a_package(path: &Path) -> bool {
    in_python_packages(path) || ["/usr", "/lib", "/opt/conda"].iter().any(|d| path.starts_with(d))
}

/// The names of files at a place.
enum Pattern {
    Is(&'static [u8]),
    StartsWith(&'static [u8]),
    EndsWith(&'static [u8]),
}

impl Pattern {
    fn of(place: &'static str) -> Self {
        let name = place.rsplit_once('/').map_or(place, |(_, name)| name).as_bytes();
        match name {
            [b'*', end @ ..] => Self::EndsWith(end),
            [start @ .., b'*'] => Self::StartsWith(start),
            name => Self::Is(name),
        }
    }

    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Is(whole) => name == *whole,
            Self::StartsWith(start) => name.starts_with(start) && !name.ends_with(b".pub"),
            Self::EndsWith(end) => name.ends_with(end),
        }
    }
}

/// The line, from 1, on which there is such a credential.
fn line_of(form: Form, data: &[u8]) -> Option<usize> {
    let lines = || data.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    let is_secret_line = |line: &[u8]| match form {
        Form::Url => has_password(line),
        Form::Word(words) => words.iter().any(|word| has_value(line, word)),
        Form::Variable => line.iter().position(|b| *b == b'=').is_some_and(|at| {
            let name = String::from_utf8_lossy(&line[..at]);
            is_secret(name.trim()) && !is_placeholder(&line[at + 1..])
        }),
        Form::PrivateKey => line.starts_with(b"-----BEGIN") && line.ends_with(b"PRIVATE KEY-----"),
        Form::Whole => !is_placeholder(line),
    };
    lines().position(|line| !line.starts_with(b"#") && !line.starts_with(b";") && is_secret_line(line)).map(|at| at + 1)
}

/// `https://user:password@host`, `https://token@host` excepted: that may be a user alone.
pub fn has_password(text: &[u8]) -> bool {
    memchr::memmem::find_iter(text, b"://").any(|at| {
        let rest = &text[at + 3..];
        let end = rest.iter().position(|b| b"/ \t\n\r\"'".contains(b)).unwrap_or(rest.len());
        let Some(login) = memchr::memrchr(b'@', &rest[..end]).map(|n| &rest[..n]) else { return false };
        memchr::memchr(b':', login).is_some_and(|n| !is_placeholder(&login[n + 1..]))
    })
}

/// Whether `word` stands on the line with a value behind it.
fn has_value(line: &[u8], word: &str) -> bool {
    memchr::memmem::find_iter(line, word.as_bytes()).any(|at| {
        let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        let rest = &line[at + word.len()..];
        let value = rest.trim_ascii_start();
        let separated = rest.first().is_some_and(|b| !is_name(b));
        let separators = value.iter().take_while(|b| b"\"':= \t".contains(b)).count();
        let starts = at == 0 || !is_name(&line[at - 1]);
        starts && separated && !is_placeholder(&value[separators..])
    })
}

/// What stands where a secret would: nothing, a variable, a mark to be replaced.
fn is_placeholder(value: &[u8]) -> bool {
    let value: Vec<u8> = value.iter().copied().filter(|b| !b"\"', \t\r}".contains(b)).collect();
    match value.first() {
        None => true,
        Some(first) => b"$<{%".contains(first) || value.iter().all(|b| b"*xX.".contains(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_passwords() {
        assert!(has_password(b"index-url = https://me:hunter2@pypi.example/simple"));
        for none in [
            "https://packages.example.org/simple",
            "https://me@host/x",
            "https://me:$PASSWORD@host",
            "https://${U}:${P}@host",
            "https://host/a:b@c",
            "https://host:8080/x",
        ] {
            assert!(!has_password(none.as_bytes()), "{none}");
        }
    }

    #[test]
    fn words_with_values() {
        assert!(has_value(b"machine x login y password z", "password"));
        assert!(has_value(b"//registry/:_authToken=abc", "_authToken") && has_value(b"\"auth\": \"abc=\"", "auth"));
        for none in ["password", "password=", "password = ${PW}", "passwords x", "no_password x", "\"auths\": {"] {
            assert!(!has_value(none.as_bytes(), "password") && !has_value(none.as_bytes(), "auth"), "{none}");
        }
    }

    #[test]
    fn places() {
        let is_at =
            |place, dir: &str, name: &str| is_in(place, Path::new(dir)) && Pattern::of(place).matches(name.as_bytes());
        assert!(is_at(".aws/credentials", "/root/.aws", "credentials"));
        assert!(!is_at(".aws/credentials", "/root", "credentials"));
        assert!(is_at("*.pem", "/app", "server.pem") && is_at(".ssh/id_*", "/root/.ssh", "id_rsa"));
        assert!(!is_at(".ssh/id_*", "/root/.ssh", "id_rsa.pub"));
        assert!(is_at("apt.conf.d/*", "/etc/apt/apt.conf.d", "99proxy") && !is_at("apt.conf.d/*", "/etc/apt", "x"));
    }
}
