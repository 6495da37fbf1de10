//! Builds the site of `docs/`, as `mdbook build docs` does, and checks every link in it.
//!
//! A link of the site leads to one of these: another site (`https:`, which is not checked), a file of the site, or an
//! anchor on a page of the site. In the sources, links also lead to files elsewhere in the repository;
//! `docs/repository.py` makes pages of those.

use crate::tools;
use mdbook_driver::MDBook;
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Component, Path, PathBuf},
};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs")
}

/// Files below a folder, by their paths in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found
}

/// The anchors and links of a page of the site.
#[derive(Default)]
struct Page {
    anchors: BTreeSet<String>,
    links: BTreeSet<String>,
}

impl Page {
    /// Reads the attributes of HTML that mdBook wrote: always in double quotes, and `<` is a tag.
    fn read(html: &str) -> Self {
        let mut page = Self::default();
        let mut rest = html;
        while let Some((_, after)) = rest.split_once('<') {
            if let Some(comment) = after.strip_prefix("!--") {
                rest = comment.split_once("-->").expect("the end of a comment").1;
                continue;
            }
            let (tag, after) = after.split_once('>').expect("the end of a tag");
            rest = after;
            let (name, mut attributes) = tag.split_once([' ', '\n']).unwrap_or((tag, ""));
            while let Some((before, after)) = attributes.split_once("=\"") {
                let (value, next) = after.split_once('"').expect("the end of an attribute");
                let value = value.replace("&amp;", "&");
                match before.trim() {
                    "id" => drop(page.anchors.insert(value)),
                    "href" | "src" => drop(page.links.insert(value)),
                    _ => {}
                }
                attributes = next;
            }
            if name == "script" {
                rest = rest.split_once("</script>").expect("the end of a script").1;
            }
        }
        page
    }
}

/// Joins a relative link to the folder of its page, without looking at the disk.
fn resolve(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().unwrap().to_owned();
    for component in Path::new(link).components() {
        match component {
            Component::ParentDir if path.pop() => {}
            Component::CurDir => {}
            component => path.push(component),
        }
    }
    path
}

#[tokio::test]
async fn every_link_of_the_site_leads_somewhere() {
    if let Err(reason) = tools::check_installed("python3", "--version").await {
        return tools::skip("the site of docs/", &reason);
    }
    let site = tempfile::tempdir().unwrap();
    let mut book = MDBook::load(docs()).unwrap();
    site.path().clone_into(&mut book.config.build.build_dir);
    book.build().unwrap_or_else(|error| panic!("{error:#}"));

    let files: BTreeSet<PathBuf> = files(site.path()).into_iter().collect();
    let html = files.iter().filter(|file| file.extension() == Some("html".as_ref()));
    let read =
        |file: &PathBuf| (file.clone(), Page::read(&fs::read_to_string(site.path().join(file)).unwrap()));
    let pages: HashMap<PathBuf, Page> = html.map(read).collect();
    let mut broken = Vec::new();
    let mut count = 0;
    for (page, Page { links, .. }) in &pages {
        for link in links.iter().filter(|link| !link.starts_with("http:") && !link.starts_with("https:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { resolve(page, file) };
            let has_anchor = || pages.get(&target).is_some_and(|page| page.anchors.contains(anchor));
            if !files.contains(&target) || !anchor.is_empty() && !has_anchor() {
                broken.push(format!("{}: {link}", page.display()));
            }
            count += 1;
        }
    }
    broken.sort();
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count > 1000, "only {count} links were found");
    for page in ["index.html", "getting-started.html", "clients/js/README.html", "files/Dockerfile.html"] {
        assert!(pages.contains_key(Path::new(page)), "{page} is missing");
    }
    assert!(
        pages[Path::new("start/django.html")].links.contains("../getting-started.html"),
        "a link between pages"
    );
}

#[test]
fn the_site_has_every_page() {
    let book = MDBook::load(docs()).unwrap();
    let chapters: BTreeSet<_> = book
        .iter()
        .filter_map(|item| match item {
            mdbook_driver::book::BookItem::Chapter(chapter) => chapter.path.clone(),
            _ => None,
        })
        .collect();
    let is_page = |file: &PathBuf| file.extension() == Some("md".as_ref()) && file != Path::new("SUMMARY.md");
    let missing: Vec<_> =
        files(&docs()).into_iter().filter(is_page).filter(|file| !chapters.contains(file)).collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md has no {missing:?}");
}
