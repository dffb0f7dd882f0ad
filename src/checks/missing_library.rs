//! A library that nothing finds: who needs it, where it was looked for, and which package brings it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::package::Packages;
use super::{Check, Failed, NEEDED_BY, Rule, file_name, finding, package};
use crate::facts::{Facts, How, Weight};
use crate::finding::{Finding, Fix};
use crate::loader::{LoadError, Searched, SearchedWhy, is_of_libc};
use crate::python::site::normal;

/// The check.
pub static CHECK: Check = Check {
    ids: &[
        "drv-build-link",
        "lib-bnb-cpu",
        "lib-cudnn-sub",
        "lib-cupti",
        "lib-cusparselt",
        "lib-ibv-provider",
        "lib-missing",
        "lib-musl",
        "lib-numba-nvvm",
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
        "lib-tf-dlopen",
        "lib-torch-deps",
    ],
    rule: Rule::Explain(explain),
};

/// What a failure is called.
struct Name {
    id: &'static str,
    message: String,
    /// What it is about, if not the library.
    subject: Option<String>,
}

fn explain(failed: &Failed<'_>, facts: &Facts) -> Option<Finding> {
    if let Some(absence) = failed.absent("program-interpreter") {
        return Some(no_program_interpreter(failed, &absence.name));
    }
    let LoadError::Missing { name, requested_by, searched, .. } = failed.load()? else { return None };
    let is_opened = matches!(failed.step.how, How::Dlopen | How::Ctypes) && *name == failed.step.file;
    // What calls dlopen for Python code is its ctypes; the module tells more.
    let is_module = |by: &&String| is_opened && !by.contains(['/', ' ']);
    let by = failed.step.because.last().filter(is_module).unwrap_or(requested_by);
    let named = name_it(failed, facts, name, by, searched);
    let how = if is_opened { "dlopen" } else { "DT_NEEDED" };
    let subject = named.subject.as_deref().unwrap_or(name);
    let mut found = finding(named.id, subject, named.message).proof(NEEDED_BY, by, Some(how.to_owned()));
    if failed.step.file != *name && failed.step.file != *requested_by {
        found = found.proof("while", failed.step.what.clone(), None);
    }
    if let Some(importer) = failed.step.importer() {
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
        let rule = match &place.by {
            Some(by) => format!("{} of {}", place.via, file_name(by)),
            None => place.via.clone(),
        };
        found = found.proof("searched", format!("{}: {why}", place.path), Some(rule));
    }
    let elsewhere = facts.image.libraries.cuda_copies.iter().find(|c| c.soname == *name);
    if let Some(copy) = elsewhere {
        found = found.proof("there is", &copy.path, Some("not on any path searched".into()));
    }
    Some(found.cure(cure(named.id, name, requested_by, facts, elsewhere.map(|c| c.path.as_str()))))
}

fn name_it(failed: &Failed<'_>, facts: &Facts, name: &str, by: &str, searched: &[Searched]) -> Name {
    let object = file_name(by);
    let of_wheel = by.contains("/site-packages/") || by.contains("/dist-packages/");
    let say = |id, message: String| Name { id, message, subject: None };
    let stem = name.split(".so").next().unwrap_or(name);
    if facts.image.loader.as_ref().is_some_and(|l| l.libc == "musl") && is_of_libc(name) {
        return say("lib-musl", format!("{object} is built for glibc, and this image has musl"));
    }
    if name.starts_with("libcuda.so") || name.starts_with("libnvidia-ml.so") {
        return say("drv-build-link", format!("{object} is linked to {name}, which only the host's driver brings"));
    }
    if of_wheel && let Some(dir) = neighbours(by, searched) {
        return Name {
            subject: Some(dir.clone()),
            ..say("lib-rpath-target", format!("{object} looks for CUDA beside its own package, where {dir} is not"))
        };
    }
    if object.starts_with("libibverbs.so") {
        return say(
            "lib-ibv-provider",
            format!("libibverbs is told to load {name}, and this release of it is not there"),
        );
    }
    match failed.subject.capability.as_str() {
        "bitsandbytes.cuda" => {
            return say(
                "lib-bnb-cpu",
                format!("bitsandbytes wants {name} for the CUDA of torch, and stays without a GPU"),
            );
        }
        "tensorflow.gpu" => {
            return say("lib-tf-dlopen", format!("TensorFlow opens {name} by name, and uses no GPU without it"));
        }
        "numba.cuda" if stem == "libnvvm" => {
            return say("lib-numba-nvvm", format!("Numba compiles kernels with {name}, and it is not found"));
        }
        _ => {}
    }
    if stem == "libcupti" {
        let is_opened = failed.step.how == How::Dlopen && *name == failed.step.file;
        let uses = if is_opened { "opens CUPTI by name" } else { "is linked to CUPTI" };
        return say("lib-cupti", format!("{object} {uses}, and {name} is not in the image"));
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
        let is_elsewhere = facts.image.libraries.cuda_copies.iter().any(|c| c.soname == name);
        if failed.step.how == How::Ctypes || (is_elsewhere && name == failed.step.file) {
            return say(
                "lib-nvrtc-dlopen-py",
                format!("{object} opens {name} by name, and nothing on its path has it"),
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
    if package::is_of_nvidia(name) && failed.step.weight == Weight::Required && of_wheel {
        return say("lib-torch-deps", format!("{object} needs {name}, and it is not in the image"));
    }
    if name.starts_with('/') {
        return say("lib-missing", format!("{object} opens {}, which is not there", file_name(name)));
    }
    say("lib-missing", format!("{object} needs {name}, and nothing finds it"))
}

fn is_of_ffmpeg(name: &str) -> bool {
    ["libavutil.", "libavcodec.", "libavformat.", "libavdevice.", "libavfilter.", "libswscale.", "libswresample."]
        .iter()
        .any(|library| name.starts_with(library))
}

/// A directory that the search paths of `object` lead into, beside its own package, where nothing of it is there.
fn neighbours(object: &str, searched: &[Searched]) -> Option<String> {
    let own = searched.iter().filter(|s| s.by.as_deref() == Some(object));
    let beside: Vec<(PathBuf, bool)> = own
        .filter(|s| s.path.contains("/../"))
        .map(|s| {
            let is_dir = s.why != SearchedWhy::NoDirectory;
            let path = normal(Path::new(&s.path));
            (if is_dir { path.parent().map(Path::to_owned).unwrap_or_default() } else { path }, is_dir)
        })
        .collect();
    let common = beside.iter().map(|(dir, _)| dir.clone()).reduce(|common, dir| {
        common.components().zip(dir.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    })?;
    let mut below: BTreeMap<PathBuf, (usize, bool)> = BTreeMap::new();
    for (dir, is_dir) in &beside {
        let first = dir.strip_prefix(&common).ok().and_then(|rest| rest.components().next());
        let (count, any) = below.entry(first.map_or(common.clone(), |c| common.join(c))).or_default();
        *count += 1;
        *any |= is_dir;
    }
    let gone = if beside.iter().all(|(_, is_dir)| !is_dir) {
        common
    } else {
        below.into_iter().find(|(_, (count, any))| *count > 1 && !any)?.0
    };
    Some(gone.to_string_lossy().into_owned())
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

fn cure(id: &str, name: &str, by: &str, facts: &Facts, elsewhere: Option<&str>) -> Fix {
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
            let versioned = facts.image.libraries.cuda_copies.iter().find(|c| c.soname.starts_with("libnvrtc.so."));
            let (dir, file) =
                versioned.and_then(|c| c.path.rsplit_once('/')).unwrap_or(("/usr/local/cuda/lib64", "libnvrtc.so.12"));
            return Fix::dockerfile(
                "give it the name that it asks for, beside the versioned file",
                format!("RUN ln -s {file} {dir}/libnvrtc.so"),
            );
        }
        "lib-rpath-target" => {
            let site = by.find("-packages/").map_or("/opt/venv", |at| &by[..at + "-packages".len()]);
            return Fix::dockerfile(
                "packages find each other by relative paths: copy all of them, to the same place",
                format!("COPY --from=builder {site} {site}"),
            );
        }
        "lib-bnb-cpu" if name.contains("libbitsandbytes") => {
            return Fix::dockerfile(
                "install a release that has a library for this CUDA, or name another with BNB_CUDA_VERSION",
                "RUN pip install --no-cache-dir --upgrade bitsandbytes",
            );
        }
        "lib-ibv-provider" => {
            let packages =
                Packages { apt: "libibverbs1 ibverbs-providers", apk: "libibverbs", dnf: "libibverbs rdma-core" };
            return Fix::dockerfile(
                "libibverbs and its providers are one release: install both, or take the files in /etc/libibverbs.d away",
                package::install(facts, packages),
            );
        }
        "lib-numba-nvvm" if elsewhere.is_none() => {
            let wheel = match package::cuda(facts) {
                Some((major, _)) if major > 12 => "nvidia-nvvm",
                _ => "nvidia-cuda-nvcc-cu12",
            };
            return Fix::dockerfile(format!("{wheel} brings it"), package::pip(wheel));
        }
        "lib-missing" if file_name(by).starts_with("libtorchcodec") && is_of_ffmpeg(name) => {
            let packages = Packages { apt: "ffmpeg", apk: "ffmpeg", dnf: "ffmpeg-free" };
            return Fix::dockerfile(
                "any release of FFmpeg that TorchCodec knows will do",
                package::install(facts, packages),
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
    package::that_brings(facts, name)
}
