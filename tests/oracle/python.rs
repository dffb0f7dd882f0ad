//! Python's own word: which imports its parser sees in a file, and what its `site` makes of an environment.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mldoctor::image::Rootfs;
use mldoctor::loader::Environment;
use mldoctor::python::Interpreter;
use mldoctor::python::site::sys_path;
use mldoctor::python::source::{scan, scan_function};
use mldoctor::python::statements::{Catches, Statement};

use crate::support::skip;

/// Prints, for each file named on standard input, its imports in the form of [`rows`], as a line of JSON.
const IMPORTS: &str = r#"
import ast, json, sys

ALL = {"Exception", "BaseException"}

def catches(expr):
    if expr is None:
        return "1111"
    names = {n.id for n in ast.walk(expr) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(expr) if isinstance(n, ast.Attribute)}
    if names & ALL:
        return "1111"
    imports = "ImportError" in names
    found = [imports or "ModuleNotFoundError" in names, imports,
             bool(names & {"OSError", "EnvironmentError", "IOError"}), "NameError" in names]
    return "".join("01"[f] for f in found)

def inner(node):
    """Statements that run with `node`, whatever block they stand in."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, field, []):
            yield child

def holds_import(body):
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return True
        if holds_import(list(inner(node))):
            return True
    return False

def block(body, guards, out):
    for node in body:
        if isinstance(node, ast.Import):
            out += [f"{node.lineno} {a.name} - {guards}" for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ",".join(a.name for a in node.names)
            out.append(f"{node.lineno} {'.' * node.level}{node.module or ''} {names} {guards}")
        elif isinstance(node, ast.Return):
            out.append(f"1 return {guards}")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if holds_import(node.body):
                block(node.body, f"{guards}/def:{node.name}", out)
        elif isinstance(node, (ast.Try, getattr(ast, "TryStar", ast.Try))):
            block(node.body, guards + "/try", out)
            for handler in node.handlers:
                block(handler.body, guards + "/except:" + catches(handler.type), out)
            block(node.orelse, guards + "/else", out)
            block(node.finalbody, guards + "/finally", out)
        elif isinstance(node, ast.If):
            block(node.body, guards + "/if", out)
            rest = node.orelse
            while len(rest) == 1 and isinstance(rest[0], ast.If) and rest[0].col_offset == node.col_offset:
                block(rest[0].body, guards + "/if", out)
                rest = rest[0].orelse
            block(rest, guards + "/else", out)
        elif isinstance(node, ast.With):
            suppress = [i.context_expr for i in node.items if isinstance(i.context_expr, ast.Call)
                        and ast.unparse(i.context_expr.func).split(".")[-1] == "suppress"]
            what = catches(ast.Tuple(suppress[0].args)) if suppress else ""
            block(node.body, guards + ("/suppress:" + what if suppress else ""), out)
        elif isinstance(node, getattr(ast, "Match", ())):
            for case in node.cases:
                block(case.body, guards + "/if", out)
        else:
            block(list(inner(node)), guards, out)

for path in sys.stdin.read().splitlines():
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (SyntaxError, ValueError, RecursionError):
        print("null")
        continue
    out = []
    block(tree.body, "", out)
    print(json.dumps(out))
"#;

fn rows(source: &[u8], statements: &[Statement], guards: &str, out: &mut Vec<String>) {
    for statement in statements {
        match statement {
            Statement::Import(import) => {
                let names = import.names.as_ref().map_or("-".to_owned(), |names| names.join(","));
                let dots = ".".repeat(import.level as usize);
                out.push(format!("{} {dots}{} {names} {guards}", import.line, import.module));
            }
            Statement::Function { name, body } => {
                let body = body.statements(|body| scan_function(source, body));
                if !body.is_empty() {
                    rows(source, body, &format!("{guards}/def:{name}"), out);
                }
            }
            Statement::Try { body, handlers, otherwise, finally } => {
                rows(source, body, &format!("{guards}/try"), out);
                for handler in handlers {
                    rows(source, &handler.body, &format!("{guards}/except:{}", flags(handler.catches)), out);
                }
                rows(source, otherwise, &format!("{guards}/else"), out);
                rows(source, finally, &format!("{guards}/finally"), out);
            }
            Statement::If { branches, otherwise } => {
                for (_, body) in branches {
                    rows(source, body, &format!("{guards}/if"), out);
                }
                rows(source, otherwise.as_deref().unwrap_or_default(), &format!("{guards}/else"), out);
            }
            Statement::Suppress { catches, body } => {
                rows(source, body, &format!("{guards}/suppress:{}", flags(*catches)), out);
            }
            Statement::Class(body) => rows(source, body, guards, out),
            Statement::Return => out.push(format!("1 return {guards}")),
            Statement::Call(_)
            | Statement::Constant(..)
            | Statement::Name(_)
            | Statement::OfNumpy(..)
            | Statement::Copied(_)
            | Statement::Lazy { .. }
            | Statement::Raise(_) => {}
        }
    }
}

fn flags(catches: Catches) -> String {
    let all = [catches.not_found, catches.import, catches.os, catches.name];
    all.iter().map(|f| if *f { '1' } else { '0' }).collect()
}

/// Whether there is a `python3`.
pub fn has_python() -> bool {
    Command::new("python3").arg("--version").output().is_ok()
}

/// What `python3` prints when it reads this.
pub fn python(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("python3");
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            sources(&entry.path(), found);
        } else if kind.is_file() && entry.path().extension().is_some_and(|e| e == "py") {
            found.push(entry.path());
        }
    }
}

/// Every source file of the machine's Python, and of the PyTorch of the acceptance tests if that is installed.
#[test]
fn imports_of_every_source_file() {
    if !has_python() {
        return skip("there is no python3 to compare with");
    }
    let stdlib = python(&["-c", "import sysconfig; print(sysconfig.get_paths()['stdlib'])"], "");
    let mut files = Vec::new();
    sources(Path::new(stdlib.trim()), &mut files);
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target/acceptance/torch-2.6.0/lib"), &mut files);
    files.sort();
    let list: Vec<&str> = files.iter().filter_map(|p| p.to_str()).filter(|p| !p.contains('\n')).collect();
    let told = python(&["-W", "ignore", "-c", IMPORTS], &list.join("\n"));
    let mut differences = Vec::new();
    let mut compared = 0;
    for (path, line) in list.iter().zip(told.lines()) {
        let Some(mut real) = serde_json::from_str::<Option<Vec<String>>>(line).unwrap() else { continue };
        compared += 1;
        let source = fs::read(path).unwrap();
        let mut own = Vec::new();
        rows(&source, &scan(&source), "", &mut own);
        // What is imported by a call is no import statement, and a function may be there for its sake alone.
        let lines: Vec<&[u8]> = source.split(|b| *b == b'\n').collect();
        let calls = memchr::memmem::find(&source, b"import_module(").is_some();
        own.retain(|row| {
            let number: usize = row.split(' ').next().unwrap().parse().unwrap();
            let text = String::from_utf8_lossy(lines[number - 1]);
            let is_call = text.contains("__import__(") || text.contains("import_module(");
            real.contains(row) || !(is_call || calls && row.contains("/def:"))
        });
        // Functions of one name are not told apart, and only some of them may hold imports.
        for rows in [&mut own, &mut real] {
            let (returns, mut others): (Vec<String>, _) = rows.drain(..).partition(|row| row.contains(" return "));
            others.extend(BTreeSet::from_iter(returns));
            *rows = others;
        }
        if own != real {
            let lost = real.iter().filter(|r| !own.contains(r));
            let more = own.iter().filter(|r| !real.contains(r));
            differences.push(format!(
                "{path}: lost {:?}, invented {:?}",
                lost.collect::<Vec<_>>(),
                more.collect::<Vec<_>>()
            ));
        }
    }
    println!("compared {compared} files");
    assert!(compared > 100);
    assert!(
        differences.is_empty(),
        "{} files differ:\n{}",
        differences.len(),
        differences[..differences.len().min(20)].join("\n")
    );
}

/// What an interpreter says of itself.
const ITSELF: &str = "import importlib.machinery, json, sys, sysconfig
json.dump([sys.path[1:], importlib.machinery.EXTENSION_SUFFIXES, sys.prefix, sys.base_prefix,
    sysconfig.get_paths()['include']], sys.stdout)";

/// Compares what is found out about an interpreter and its `sys.path` with what it says itself.
fn agrees(python: &Path, variables: &[(&str, &str)], cwd: &Path) -> Result<(), String> {
    let mut command = Command::new(python);
    command.args(["-c", ITSELF]).env_clear().current_dir(cwd).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    type Told = (Vec<PathBuf>, Vec<String>, PathBuf, PathBuf, PathBuf);
    let real: Told = serde_json::from_slice(&output.stdout).unwrap();

    let rootfs = Rootfs::open_root(Path::new("/")).unwrap();
    let env: Environment = variables.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
    let found = Interpreter::find(&rootfs, &env, Some(python)).map_err(|e| format!("{e:?}"))?;
    let path = sys_path(&rootfs, &found, &env, cwd);
    // Lines of .pth files that are code may add anything; what they would run is reported.
    let own: Told = (
        path.entries.clone(),
        found.suffixes.clone(),
        found.prefix.clone(),
        found.base_prefix.clone(),
        found.include_dir(),
    );
    if own == real {
        Ok(())
    } else {
        Err(format!("{} {variables:?}\n  real: {real:?}\n  own:  {own:?}", python.display()))
    }
}

/// Interpreters of the machine, and virtual environments of each in every form.
#[test]
fn paths_and_suffixes_of_interpreters() {
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    let search = std::env::var_os("PATH").unwrap_or_default();
    let mut bases: Vec<PathBuf> = std::env::split_paths(&search).filter(|d| !d.ends_with("shims")).collect();
    // Other releases, where pyenv has them; 3.8 is the oldest that a PyTorch of today's table runs on.
    if let Some(root) = std::env::var_os("PYENV_ROOT").or_else(|| Some("/root/.pyenv".into())) {
        let versions = fs::read_dir(Path::new(&root).join("versions")).into_iter().flatten().flatten();
        let is_old = |v: &str| ["2.", "3.6", "3.7"].iter().any(|old| v.starts_with(old));
        bases.extend(versions.filter(|v| !is_old(&v.file_name().to_string_lossy())).map(|v| v.path().join("bin")));
    }
    let mut bases: Vec<PathBuf> = bases.into_iter().map(|d| d.join("python3")).filter(|p| p.is_file()).collect();
    bases.sort();
    bases.dedup();
    if bases.is_empty() {
        return skip("there is no python3 to compare with");
    }
    let mut failures = Vec::new();
    for (n, base) in bases.iter().enumerate() {
        let mut pythons = vec![base.clone()];
        for (form, options) in [("plain", &[][..]), ("system", &["--system-site-packages"]), ("copied", &["--copies"])]
        {
            let venv = dir.join(format!("{n}-{form}"));
            let mut command = Command::new(base);
            command.args(["-m", "venv", "--without-pip"]).args(options).arg(&venv);
            // Debian's interpreter comes without what makes virtual environments.
            if command.output().unwrap().status.success() {
                pythons.push(venv.join("bin/python"));
            }
        }
        for python in pythons {
            let site = {
                let output =
                    Command::new(&python).args(["-c", "import site; print(site.getsitepackages()[0])"]).output();
                PathBuf::from(String::from_utf8(output.unwrap().stdout).unwrap().trim())
            };
            let is_venv = site.starts_with(&dir);
            let (one, two) = (dir.join("one"), dir.join("two"));
            for d in [&one, &two] {
                fs::create_dir_all(d).unwrap();
            }
            if is_venv {
                let pth = format!("# a comment\n\n{}\n/nowhere\nimport sys\nnested\n../two\n", one.display());
                fs::write(site.join("b.pth"), pth).unwrap();
                fs::create_dir_all(site.join("nested")).unwrap();
                fs::write(site.join("nested/c.pth"), format!("{}\n", two.display())).unwrap();
                fs::write(site.join("a.pth"), format!("{}  \n", two.display())).unwrap();
                fs::write(site.join(".hidden.pth"), "/usr\n").unwrap();
            }
            let home = dir.join("home");
            let user = Command::new(&python).args(["-m", "site", "--user-site"]).env("HOME", &home).output().unwrap();
            fs::create_dir_all(String::from_utf8(user.stdout).unwrap().trim()).unwrap();
            let local = home.join(".local");
            let (one, home, user_base) = (one.to_str().unwrap(), home.to_str().unwrap(), local.to_str().unwrap());
            let odd = &format!("{one}::/nowhere:relative");
            let environments: &[&[(&str, &str)]] = &[
                &[],
                &[("PYTHONPATH", one)],
                &[("PYTHONPATH", odd)],
                &[("HOME", home)],
                &[("HOME", home), ("PYTHONNOUSERSITE", "1")],
                &[("PYTHONUSERBASE", user_base)],
            ];
            for variables in environments {
                failures.extend(agrees(&python, variables, &dir).err());
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
