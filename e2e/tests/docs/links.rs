//! Checks the links of the pages to other files and to headings.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

const FOLDERS: [&str; 10] = [
    ".",
    "docs",
    "docs/adr",
    "docs/start",
    "deploy",
    "deploy/images",
    "examples",
    "clients/js",
    "clients/python",
    "clients/django",
];

/// The anchor that GitHub derives from a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The anchors and links of a page.
#[derive(Default)]
struct Page {
    anchors: HashSet<String>,
    links: Vec<String>,
}

impl Page {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::End(TagEnd::Heading(_)) => page.anchors.extend(heading.take().as_deref().map(anchor)),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                _ => {}
            }
        }
        page
    }
}

/// All pages, by path.
fn pages(root: &Path) -> HashMap<PathBuf, Page> {
    let files = FOLDERS.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let files =
        files.map(|entry| entry.unwrap().path()).filter(|path| path.extension() == Some("md".as_ref()));
    files.map(|path| (path.canonicalize().unwrap(), Page::read(&path))).collect()
}

#[test]
fn every_link_of_a_page_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let pages = pages(root);
    let mut broken = Vec::new();
    for (page, Page { links, .. }) in &pages {
        for link in links.iter().filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                Ok(page.clone())
            } else {
                page.parent().unwrap().join(file).canonicalize()
            };
            let exists = target.is_ok_and(|target| {
                heading.is_empty() || pages.get(&target).is_some_and(|page| page.anchors.contains(heading))
            });
            if !exists {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
