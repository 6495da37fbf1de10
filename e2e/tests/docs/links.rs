//! Checks the links of the pages to other files and to headings.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

const FOLDERS: [&str; 5] = [".", "docs", "deploy", "examples", "clients/js"];

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// All pages with their anchors.
fn pages(root: &Path) -> HashMap<PathBuf, Vec<String>> {
    let files = FOLDERS.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let files =
        files.map(|entry| entry.unwrap().path()).filter(|path| path.extension() == Some("md".as_ref()));
    let anchors = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let headings = text.lines().filter(|line| line.starts_with('#'));
        headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
    };
    files.map(|path| (path.canonicalize().unwrap(), anchors(&path))).collect()
}

#[test]
fn every_link_of_a_page_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let pages = pages(root);
    let mut broken = Vec::new();
    for page in pages.keys() {
        let text = fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                Ok(page.clone())
            } else {
                page.parent().unwrap().join(file).canonicalize()
            };
            let exists = target.is_ok_and(|target| {
                heading.is_empty()
                    || pages.get(&target).is_some_and(|anchors| anchors.iter().any(|known| known == heading))
            });
            if !exists {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
