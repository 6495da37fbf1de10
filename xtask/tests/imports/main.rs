//! The modules of a crate import each other without a cycle, and, where ARCHITECTURE.md names layers, only downwards.

mod source;

use source::{Crate, Module};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").to_owned()
}

/// The roots of all crates: libraries, programs, tests and benchmarks.
fn roots() -> Vec<PathBuf> {
    let mut folders = vec![workspace()];
    let mut roots = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry of a folder").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a UTF-8 name");
            if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
                folders.push(path);
            } else if name == "main.rs" || path.ends_with("src/lib.rs") {
                roots.push(path);
            }
        }
    }
    roots
}

/// The layers that ARCHITECTURE.md names, by source folder, highest first: `gateway/src   layers: a > b, c > d`.
fn layers() -> BTreeMap<String, Vec<BTreeSet<String>>> {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let lines = text.lines().filter_map(|line| line.split_once(" layers: "));
    lines.map(|(folder, layers)| (folder.trim().to_owned(), parse_layers(layers))).collect()
}

fn parse_layers(layers: &str) -> Vec<BTreeSet<String>> {
    let names = |layer: &str| layer.split(',').map(|name| name.trim().to_owned()).collect();
    layers.split('>').map(names).collect()
}

/// A cycle of imports, as a path that ends where it begins.
fn cycle(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<Module>> {
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| visit(module, imports, &mut Vec::new(), &mut done))
}

fn visit(
    module: &Module,
    imports: &BTreeMap<Module, BTreeSet<Module>>,
    path: &mut Vec<Module>,
    done: &mut BTreeSet<Module>,
) -> Option<Vec<Module>> {
    if let Some(start) = path.iter().position(|earlier| earlier == module) {
        return Some(path[start..].iter().chain([module]).cloned().collect());
    }
    if done.contains(module) {
        return None;
    }
    path.push(module.clone());
    let found = imports.get(module).into_iter().flatten().find_map(|next| visit(next, imports, path, done));
    path.pop();
    done.insert(module.clone());
    found
}

/// The imports between modules at the top of a crate.
fn between_tops(imports: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut tops: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, to) in imports.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
        let (from, to) = (from.top(), to.top());
        if from != to {
            tops.entry(from).or_default().insert(to);
        }
    }
    tops
}

/// The imports of a crate that do not point to a lower layer, and the modules without a layer.
fn upward(tops: &BTreeMap<Module, BTreeSet<Module>>, layers: &[BTreeSet<String>]) -> Vec<String> {
    let layer_of = |module: &Module| layers.iter().position(|layer| layer.contains(&module.to_string()));
    let mut faults = Vec::new();
    for (from, to) in tops.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
        match (layer_of(from), layer_of(to)) {
            (Some(upper), Some(lower)) if upper < lower => {}
            (Some(_), Some(_)) => faults.push(format!("{from} imports {to}, which is not in a lower layer")),
            (None, _) => faults.push(format!("{from} has no layer")),
            (_, None) => faults.push(format!("{to} has no layer")),
        }
    }
    faults
}

#[test]
fn no_crate_has_an_import_cycle() {
    let mut cycles = Vec::new();
    for root in roots() {
        let imports = Crate::read(&root).imports();
        for imports in [&imports, &between_tops(&imports)] {
            if let Some(cycle) = cycle(imports) {
                let names: Vec<String> = cycle.iter().map(Module::to_string).collect();
                cycles.push(format!("{}: {}", root.display(), names.join(" > ")));
            }
        }
    }
    assert!(cycles.is_empty(), "import cycles:\n{}", cycles.join("\n"));
}

#[test]
fn no_import_points_to_a_higher_layer() {
    let layers = layers();
    assert!(!layers.is_empty(), "ARCHITECTURE.md names no layers");
    let mut faults = Vec::new();
    for (folder, layers) in layers {
        let root = workspace().join(&folder).join("lib.rs");
        let tops = between_tops(&Crate::read(&root).imports());
        faults.extend(upward(&tops, &layers).into_iter().map(|fault| format!("{folder}: {fault}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_checks_find_a_cycle_and_an_upward_import() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("lib.rs", "mod high; mod low; pub use low::Shared;");
    write("high.rs", "use crate::low::Low; pub struct High(Low);");
    write("low.rs", "pub struct Low; pub struct Shared; fn low() -> crate::high::High { todo!() }");
    let imports = Crate::read(&folder.path().join("lib.rs")).imports();
    let names = |module: &Module| module.to_string();
    assert_eq!(cycle(&imports).unwrap().iter().map(names).collect::<Vec<_>>(), ["high", "low", "high"]);
    let faults = upward(&between_tops(&imports), &parse_layers("high > low"));
    assert_eq!(faults, ["low imports high, which is not in a lower layer"]);
    // A name that the root only hands on is an import of its own module; tests may import anything.
    write("low.rs", "pub struct Low; pub struct Shared; #[cfg(test)] mod tests { use crate::high::High; }");
    write("high.rs", "use crate::{low::Low, Shared}; use super::Shared as Same;");
    let imports = Crate::read(&folder.path().join("lib.rs")).imports();
    assert_eq!(cycle(&imports), None);
    assert!(upward(&between_tops(&imports), &parse_layers("high > low")).is_empty());
}
