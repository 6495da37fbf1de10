//! Reads the modules of a crate and their imports from its source files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};
use syn::{
    Attribute, Expr, Item, ItemMod, ItemUse, Lit, Meta, MetaNameValue, UseTree, Visibility,
    visit::{self, Visit},
};

/// A module that is a file, by its path within the crate. The root is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module(Vec<String>);

impl Module {
    /// The module at the top of the crate that contains this one.
    pub fn top(&self) -> Self {
        Self(self.0.iter().take(1).cloned().collect())
    }
}

impl fmt::Display for Module {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { write!(out, "crate") } else { write!(out, "{}", self.0.join("::")) }
    }
}

/// The modules of a crate, without those that only tests compile.
pub struct Crate {
    files: BTreeMap<Module, Source>,
}

/// The imports of a file, as absolute paths.
#[derive(Default)]
struct Source {
    paths: Vec<Vec<String>>,
    /// Names that the module hands on: `pub use path as name`.
    reexports: BTreeMap<String, Vec<String>>,
    modules: Vec<String>,
    /// The files of modules that name theirs with `#[path]`.
    places: BTreeMap<String, String>,
}

impl Crate {
    /// Reads the crate of a root file.
    pub fn read(root: &Path) -> Self {
        let mut this = Self { files: BTreeMap::new() };
        this.read_module(Module(Vec::new()), root, root.parent().expect("a file is in a folder"));
        this
    }

    /// Reads a file and the modules that it declares, which are in `folder`.
    fn read_module(&mut self, module: Module, file: &Path, folder: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut reader = Reader { module: module.0.clone(), source: Source::default() };
        reader.visit_file(&syntax);
        let (children, places) = (reader.source.modules.clone(), reader.source.places.clone());
        self.files.insert(module.clone(), reader.source);
        for name in children {
            let below = folder.join(&name);
            let named = places.get(&name).map(|place| folder.join(place));
            let usual = [folder.join(format!("{name}.rs")), below.join("mod.rs")];
            let candidates: Vec<PathBuf> = named.into_iter().chain(usual).collect();
            let file = candidates.iter().find(|file| file.exists());
            let file = file.unwrap_or_else(|| panic!("no file of module {name} in {}", folder.display()));
            let path = module.0.iter().chain([&name]).cloned().collect();
            self.read_module(Module(path), file, &below);
        }
    }

    /// The modules that each module imports. The root, which wires the others, imports nothing.
    pub fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let mut imports = BTreeMap::new();
        for (module, source) in self.files.iter().filter(|(module, _)| !module.0.is_empty()) {
            let targets = source.paths.iter().filter_map(|path| self.target(path));
            let targets = targets.filter(|target| target != module && !target.0.is_empty()).collect();
            imports.insert(module.clone(), targets);
        }
        imports
    }

    /// The file that defines the item of a path: the longest prefix that is a module, or the module behind a name that it
    /// only hands on. A path that only names a module imports nothing from a parent of it.
    fn target(&self, path: &[String]) -> Option<Module> {
        let len =
            (0..=path.len()).rev().find(|len| self.files.contains_key(&Module(path[..*len].to_vec())))?;
        let module = Module(path[..len].to_vec());
        let reexport = path.get(len).and_then(|name| self.files[&module].reexports.get(name));
        match reexport {
            Some(target) if target != path => self.target(target),
            _ => Some(module),
        }
    }
}

struct Reader {
    module: Vec<String>,
    source: Source,
}

impl Reader {
    /// The absolute path of a relative one, if it is within the crate.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = self.module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (base, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child if self.source.modules.iter().any(|module| module == child) => {}
            _ => return None,
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    fn use_tree(&mut self, tree: &UseTree, prefix: &mut Vec<String>, is_reexport: bool) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.use_tree(&path.tree, prefix, is_reexport);
                prefix.pop();
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.use_tree(tree, prefix, is_reexport));
            }
            UseTree::Name(name) => self.used(&name.ident.to_string(), None, prefix, is_reexport),
            UseTree::Rename(rename) => {
                let new = rename.rename.to_string();
                self.used(&rename.ident.to_string(), Some(&new), prefix, is_reexport);
            }
            UseTree::Glob(_) => self.used("*", None, prefix, false),
        }
    }

    fn used(&mut self, name: &str, new: Option<&str>, prefix: &[String], is_reexport: bool) {
        let own = (name != "self" && name != "*").then(|| name.to_owned());
        let path: Vec<String> = prefix.iter().cloned().chain(own).collect();
        let Some(path) = self.absolute(&path) else { return };
        if is_reexport {
            self.source.reexports.insert(new.unwrap_or(name).to_owned(), path);
        } else {
            self.source.paths.push(path);
        }
    }
}

/// The file in `#[path = "…"]`.
fn place(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let Meta::NameValue(MetaNameValue { path, value: Expr::Lit(value), .. }) = &attribute.meta else {
            return None;
        };
        match &value.lit {
            Lit::Str(file) if path.is_ident("path") => Some(file.value()),
            _ => None,
        }
    })
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

impl Visit<'_> for Reader {
    fn visit_file(&mut self, file: &syn::File) {
        // Declared modules first: a path may begin with one.
        for item in &file.items {
            if let Item::Mod(ItemMod { attrs, ident, content: None, .. }) = item
                && !is_test(attrs)
            {
                self.source.modules.push(ident.to_string());
                self.source.places.extend(place(attrs).map(|place| (ident.to_string(), place)));
            }
        }
        visit::visit_file(self, file);
    }

    fn visit_item_mod(&mut self, module: &ItemMod) {
        if !is_test(&module.attrs) && module.content.is_some() {
            self.module.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        if !is_test(&item.attrs) {
            let is_reexport = !matches!(item.vis, Visibility::Inherited);
            self.use_tree(&item.tree, &mut Vec::new(), is_reexport);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        if path.segments.len() > 1 {
            let segments: Vec<String> =
                path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.source.paths.extend(self.absolute(&segments));
        }
        visit::visit_path(self, path);
    }
}
