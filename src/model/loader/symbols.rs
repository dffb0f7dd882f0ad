//! Which references would not bind (`_dl_lookup_symbol_x` in glibc's `elf/dl-lookup.c`).
//!
//! The question is only whether a definition exists in the scope, not which one wins: so the object that is most likely to
//! have it is asked first (the one that the version names, then the one that had the last), which turns the walk
//! through a scope of a hundred objects into one probe. A symbol table may list names that no relocation uses; these
//! are never looked up, so for what is not found the relocations decide, and tell whether it is called lazily.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::LoadError;
use super::process::{ObjectId, Process};
use super::store::ElfFile;
use crate::image::elf::{Name, Wanted};
use crate::parallel;

/// Symbols below which a second thread costs more than it saves.
const WORTH_A_THREAD: u32 = 2_000;

impl Process<'_> {
    /// References in `objects` that no definition in their scope satisfies, in the order of relocation.
    pub(super) fn unbound(&self, objects: &[ObjectId], now: bool) -> Vec<LoadError> {
        let work: u32 = objects.iter().map(|id| self.objects[id.0].file.elf.unhashed_symbols().len() as u32).sum();
        if work < WORTH_A_THREAD {
            return objects.iter().flat_map(|&id| self.unbound_in(id, now)).collect();
        }
        parallel::map(objects, |&id| self.unbound_in(id, now)).into_iter().flatten().collect()
    }

    /// The objects that a lookup on behalf of `id` goes through.
    fn scope(&self, id: ObjectId) -> Vec<Arc<ElfFile>> {
        let mut seen = vec![false; self.objects.len()];
        let local = self.objects[id.0].scopes.iter().filter_map(|r| self.objects[r.0].searchlist.as_ref());
        self.global
            .iter()
            .chain(local.flatten())
            .filter(|o| !std::mem::replace(&mut seen[o.0], true))
            .map(|o| Arc::clone(&self.objects[o.0].file))
            .collect()
    }

    fn unbound_in(&self, id: ObjectId, now: bool) -> Vec<LoadError> {
        let object = &self.objects[id.0];
        let elf = &object.file.elf;
        let own_versions = object.file.versions();
        let scope = self.scope(id);
        let has_versions = !self.loader.dl.is_musl();
        // Version index → the object that should define it.
        let mut providers: Vec<Option<Arc<ElfFile>>> = Vec::new();
        if has_versions {
            for need in elf.version_needs() {
                let index = usize::from(need.index);
                if providers.len() <= index {
                    providers.resize(index + 1, None);
                }
                providers[index] = self.find_needed(need.file).map(|p| Arc::clone(&self.objects[p.0].file));
            }
        }
        let mut last = 0;
        let mut missing: HashMap<u32, ()> = HashMap::new();
        for index in elf.unhashed_symbols() {
            let Some(symbol) = elf.symbol(index) else { break };
            if !symbol.is_undefined() || symbol.is_local() || symbol.is_weak() || symbol.binds_locally() {
                continue;
            }
            let Some(bytes) = elf.symbol_name(&symbol) else { continue };
            let name = Name::new(bytes);
            let raw = if has_versions { elf.symbol_version(index) } else { None };
            let wanted = match has_versions {
                true => Wanted::Version(own_versions.wanted(elf, raw)),
                false => Wanted::AnyVisible,
            };
            if let Some(provider) = raw.and_then(|v| providers.get(usize::from(v & 0x7fff))?.as_ref())
                && provider.elf.defines(&name, wanted, provider.versions())
            {
                continue;
            }
            let defines = |file: &Arc<ElfFile>| file.elf.defines(&name, wanted, file.versions());
            if scope.get(last).is_some_and(defines) {
                continue;
            }
            match scope.iter().position(defines) {
                Some(at) => last = at,
                None => {
                    missing.insert(index, ());
                }
            }
        }
        if missing.is_empty() {
            return Vec::new();
        }
        let files: HashMap<u16, String> =
            elf.version_needs().iter().map(|n| (n.index, n.file.to_string_lossy().into_owned())).collect();
        let now = now || elf.binds_now();
        let mut errors = Vec::new();
        for (index, is_plt) in elf.relocations() {
            if missing.remove(&index).is_none() {
                continue;
            }
            let Some(symbol) = elf.symbol(index) else { continue };
            let raw = if has_versions { elf.symbol_version(index) } else { None };
            let wanted = own_versions.wanted(elf, raw);
            errors.push(LoadError::Undefined {
                object: object.display(),
                symbol: String::from_utf8_lossy(elf.symbol_name(&symbol).unwrap_or_default()).into_owned(),
                version: wanted.map(|w| String::from_utf8_lossy(w.name).into_owned()),
                file: raw.and_then(|v| files.get(&(v & 0x7fff)).cloned()),
                lazy: is_plt && !now,
            });
            if missing.is_empty() {
                break;
            }
        }
        errors
    }
}
