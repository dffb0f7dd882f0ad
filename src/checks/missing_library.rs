//! A library that nothing finds: who needs it, where it was looked for, and which package brings it.

use super::{Check, Failed, Rule, file_name, finding};
use crate::facts::{Facts, How, Weight};
use crate::finding::{Finding, Fix};
use crate::image::packages::{Providers, providers};
use crate::loader::{LoadError, Searched, SearchedWhy};

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "drv-build-link",
        "lib-cudnn-sub",
        "lib-cupti",
        "lib-cusparselt",
        "lib-missing",
        "lib-musl",
        "lib-nvrtc-builtins",
        "lib-nvrtc-dlopen-py",
        "lib-nvrtc-name",
        "lib-nvshmem-cufile",
        "lib-ort-cuda",
        "lib-rpath-target",
        "lib-sys-gl",
        "lib-sys-gomp",
        "lib-sys-ibverbs",
        "lib-sys-numa",
        "lib-te-cudnn",
        "lib-te-major",
        "lib-torch-deps",
    ],
    rule: Rule::Explain(explain),
};

/// What a failure is called.
struct Name {
    id: &'static str,
    message: String,
}

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    if let Some(absence) = failed.absent("program-interpreter") {
        return Some(no_program_interpreter(failed, &absence.name));
    }
    let LoadError::Missing { name, requested_by, searched, .. } = failed.load()? else { return None };
    let named = name_it(failed, facts, name, requested_by, searched);
    let providers = providers(name);
    let mut found = finding(named.id, name, named.message).proof(
        "needed by",
        requested_by,
        Some(if failed.step.how == How::Dlopen && *name == failed.step.file {
            "dlopen".to_owned()
        } else {
            "DT_NEEDED".to_owned()
        }),
    );
    if failed.step.file != *name && failed.step.file != *requested_by {
        found = found.proof("while", failed.step.what.clone(), None);
    }
    if let Some(importer) = failed.step.because.iter().rev().find(|b| b.contains(".py:")) {
        found = found.proof("imported at", importer, None);
    }
    for place in searched.iter().filter(|p| p.why != SearchedWhy::NotInCache) {
        let why = match place.why {
            SearchedWhy::NoDirectory => "no such directory",
            SearchedWhy::DanglingLink => "a link that leads nowhere",
            SearchedWhy::OtherMachine => "for another machine",
            SearchedWhy::Denied => "permission denied",
            SearchedWhy::NotThere => "not there",
            SearchedWhy::Unusable | SearchedWhy::NotInCache => "unusable",
        };
        found = found.proof("searched", format!("{}: {why}", place.path), Some(place.via.clone()));
    }
    let elsewhere = facts.image.libraries.cuda_copies.iter().find(|c| c.soname == *name);
    if let Some(copy) = elsewhere {
        found = found.proof("there is", &copy.path, Some("not on any path searched".into()));
    }
    Some(found.cure(cure(named.id, name, facts, providers, elsewhere.map(|c| c.path.as_str()))))
}

fn name_it(failed: &Failed<'_>, facts: &Facts, name: &str, by: &str, searched: &[Searched]) -> Name {
    let object = file_name(by);
    let of_wheel = by.contains("/site-packages/") || by.contains("/dist-packages/");
    let say = |id, message: String| Name { id, message };
    let stem = name.split(".so").next().unwrap_or(name);
    if facts.image.loader.as_ref().is_some_and(|l| l.libc == "musl") && is_glibc(name) {
        return say("lib-musl", format!("{object} is built for glibc, and this image has musl"));
    }
    if name.starts_with("libcuda.so") || name.starts_with("libnvidia-ml.so") {
        return say("drv-build-link", format!("{object} is linked to {name}, which only the host's driver brings"));
    }
    if stem == "libcupti" {
        return say("lib-cupti", format!("{object} is linked to CUPTI, and {name} is not in the image"));
    }
    if stem == "libnvrtc-builtins" {
        return say("lib-nvrtc-builtins", format!("NVRTC compiles nothing without {name}"));
    }
    if stem.starts_with("libcudnn_") {
        return if object.contains("transformer_engine") {
            say("lib-te-cudnn", format!("Transformer Engine opens {name} by name, and it is not on the search path"))
        } else {
            say("lib-cudnn-sub", format!("cuDNN opens its part {name} at first use, and it is not found"))
        };
    }
    if stem == "libnvrtc" {
        if name == "libnvrtc.so" {
            return say(
                "lib-nvrtc-name",
                format!("{object} opens NVRTC as libnvrtc.so, and only a versioned name exists"),
            );
        }
        if failed.step.how == How::Ctypes {
            return say(
                "lib-nvrtc-dlopen-py",
                format!("Python opens {name} by name, where no wheel directory is searched"),
            );
        }
    }
    if object.contains("transformer_engine") && name.starts_with("libcu") {
        return say("lib-te-major", format!("Transformer Engine is built for another CUDA: it wants {name}"));
    }
    if object.starts_with("libonnxruntime_providers") {
        return say(
            "lib-ort-cuda",
            format!("ONNX Runtime's CUDA provider needs {name}, and falls back to the CPU without"),
        );
    }
    if stem == "libcusparseLt" && failed.subject.capability == "import:torch" {
        return say("lib-cusparselt", format!("{object} needs {name}, which comes from a wheel only"));
    }
    if stem == "libnvshmem_host" || stem == "libcufile" {
        return say("lib-nvshmem-cufile", format!("{object} is linked to {name}, however little it is used"));
    }
    if stem == "libnuma" {
        return say("lib-sys-numa", format!("{object} needs {name}, which slim images lack"));
    }
    if [
        "libGL",
        "libEGL",
        "libGLX",
        "libOpenGL",
        "libgthread-2.0",
        "libglib-2.0",
        "libSM",
        "libICE",
        "libXext",
        "libXrender",
    ]
    .contains(&stem)
    {
        return say("lib-sys-gl", format!("{object} needs {name}, a desktop library that slim images lack"));
    }
    if stem == "libgomp" {
        return say("lib-sys-gomp", format!("{object} needs {name}, the OpenMP runtime of GCC"));
    }
    if stem == "libibverbs" || stem == "librdmacm" {
        return say("lib-sys-ibverbs", format!("{object} finds no {name}: InfiniBand is not used"));
    }
    let cuda = providers(name).is_some_and(|p| is_nvidia(&p));
    if cuda && failed.step.weight == Weight::Required && of_wheel {
        let gone: Vec<&Searched> =
            searched.iter().filter(|s| s.why == SearchedWhy::NoDirectory && s.path.contains("/../")).collect();
        let own = searched.iter().filter(|s| matches!(s.via.as_str(), "rpath" | "runpath")).count();
        if own > 0 && gone.len() == own {
            return say(
                "lib-rpath-target",
                format!("{object} looks for {name} beside its own package, where no such directory is"),
            );
        }
        return say("lib-torch-deps", format!("{object} needs {name}, and it is not in the image"));
    }
    say("lib-missing", format!("{object} needs {name}, and nothing finds it"))
}

/// Libraries that only glibc has under these names.
fn is_glibc(name: &str) -> bool {
    [
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
        "libdl.so.2",
        "librt.so.1",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    ]
    .contains(&name)
}

fn no_program_interpreter(failed: &Failed<'_>, interpreter: &str) -> Finding {
    let file = &failed.step.file;
    let (id, message) = if interpreter.contains("ld-linux") {
        ("lib-musl", format!("{} is built for glibc, whose loader {interpreter} is not in this image", file_name(file)))
    } else {
        ("lib-missing", format!("{} names {interpreter} as its loader, which is not there", file_name(file)))
    };
    finding(id, file, message).proof("program interpreter", interpreter, Some("PT_INTERP".into())).cure(
        Fix::dockerfile(
            "use a base image with glibc, such as Debian slim, Ubuntu or Wolfi",
            "FROM debian:bookworm-slim",
        ),
    )
}

fn cure(id: &str, name: &str, facts: &Facts, providers: Option<Providers>, elsewhere: Option<&str>) -> Fix {
    match id {
        "drv-build-link" => {
            return Fix {
                summary: "give the container a GPU; where there is none, do not import this, and ship no stub".into(),
                docker_run: Some("docker run --gpus all …".into()),
                kubernetes: Some("resources: { limits: { nvidia.com/gpu: 1 } }".into()),
                dockerfile: None,
            };
        }
        "lib-nvrtc-name" => {
            return Fix::dockerfile(
                "give it the name that it asks for, beside the versioned file",
                "RUN cd /usr/local/cuda/lib64 && ln -s libnvrtc.so.* libnvrtc.so",
            );
        }
        "lib-musl" => {
            return Fix::dockerfile("use a base image with glibc", "FROM debian:bookworm-slim");
        }
        _ => {}
    }
    if let Some(path) = elsewhere {
        let dir = path.rsplit_once('/').map_or(path, |(d, _)| d);
        return Fix::dockerfile(
            format!("{name} is in the image, but nothing looks in its directory"),
            format!("RUN echo {dir} > /etc/ld.so.conf.d/mldoctor.conf && ldconfig"),
        );
    }
    let Some(p) = providers else {
        return Fix::words(format!("bring {name} back: copy the whole directory that holds it, links included"));
    };
    let os = facts.image.os.as_ref();
    let like = |what: &str| os.is_some_and(|os| os.id == what || os.like.split(' ').any(|l| l == what));
    let python = facts.python.as_ref().and_then(|p| p.seen());
    let installed = |name: &str| python.and_then(|p| p.distributions.iter().find(|d| d.name == name));
    let apt = |package: &str| {
        format!(
            "RUN apt-get update && apt-get install -y --no-install-recommends {package} \\\n    && rm -rf /var/lib/apt/lists/*"
        )
    };
    if is_nvidia(&p) && python.is_some() {
        if let Some(d) = p.pypi.iter().find_map(|name| installed(name)) {
            return Fix::dockerfile(
                format!("{} is installed, but the file is gone: put it back", d.name),
                format!("RUN pip install --force-reinstall --no-deps --no-cache-dir {}=={}", d.name, d.version),
            );
        }
        if let Some(pypi) = p.pypi.first() {
            return Fix::dockerfile(
                format!("install {pypi}, which brings {name}"),
                format!("RUN pip install --no-cache-dir '{pypi}'"),
            );
        }
    }
    if like("alpine")
        && let Some(apk) = p.alpine.first()
    {
        return Fix::dockerfile(format!("{apk} brings {name}"), format!("RUN apk add --no-cache {apk}"));
    }
    if (like("rhel") || like("fedora") || like("centos"))
        && let Some(rpm) = p.rhel.first()
    {
        return Fix::dockerfile(format!("{rpm} brings {name}"), format!("RUN dnf install -y {rpm} && dnf clean all"));
    }
    match (p.debian.first(), p.pypi.first()) {
        (Some(deb), _) => Fix::dockerfile(format!("{deb} brings {name}"), apt(deb)),
        (None, Some(pypi)) => {
            Fix::dockerfile(format!("{pypi} brings {name}"), format!("RUN pip install --no-cache-dir '{pypi}'"))
        }
        (None, None) => Fix::words(format!("bring {name} back")),
    }
}

/// Whether it is one of NVIDIA's libraries, which wheels bring.
fn is_nvidia(providers: &Providers) -> bool {
    providers.pypi.iter().any(|p| p.starts_with("nvidia-"))
}
