//! Runs the Django snippets in a small project. Its other files are in `django/`.

use crate::{
    notifications, payments,
    snippets::snippet,
    tools::{self, Tool, run},
};
use e2e::Stack;
use std::{fs, path::Path};
use testkit::TestDatabase;

/// Files of the project in `docs/publishing.md`.
pub const SNIPPETS: [&str; 6] = [
    "realtime/publisher.py",
    "realtime/models.py",
    "realtime/outbox.py",
    "realtime/management/commands/relay_events.py",
    "shop/views.py",
    "shop/outbox_views.py",
];
/// Other files of the project.
const REST: [(&str, &str); 5] = [
    ("manage.py", include_str!("django/manage.py")),
    ("project/settings.py", include_str!("django/settings.py")),
    ("project/urls.py", include_str!("django/urls.py")),
    ("shop/models.py", include_str!("django/models.py")),
    ("shop/management/commands/call.py", include_str!("django/call.py")),
];

struct Project {
    python: std::path::PathBuf,
    folder: tempfile::TempDir,
    database: TestDatabase,
}

impl Project {
    async fn create(python: std::path::PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let texts = SNIPPETS.map(|name| (name, snippet(name)));
        let rest = REST.map(|(name, text)| (name, text.to_owned()));
        for (name, text) in texts.into_iter().chain(rest) {
            let file = folder.path().join(name);
            let above = file.parent().unwrap();
            fs::create_dir_all(above).unwrap();
            for package in above.ancestors().take_while(|above| *above != folder.path()) {
                fs::write(package.join("__init__.py"), "").unwrap();
            }
            fs::write(file, text).unwrap();
        }
        let database = TestDatabase::create().await.unwrap();
        Self { python, folder, database }
    }

    async fn manage(&self, stack: &Stack, arguments: &[&str]) -> String {
        let tool = Tool::new(&self.python, self.folder.path()).arg("manage.py");
        let tool = arguments.iter().fold(tool, |tool, argument| tool.arg(*argument));
        run(tool, stack, &[("DATABASE_URL", &self.database.url())]).await
    }
}

#[tokio::test]
async fn the_django_snippets_of_publishing_work_with_and_without_an_outbox() {
    let python = match tools::python().await {
        Ok(python) => python,
        Err(reason) => return tools::skip("the Django snippets of docs/publishing.md", &reason),
    };
    let mut stack = Stack::start().await;
    let project = Project::create(python).await;
    project.manage(&stack, &["migrate", "--run-syncdb"]).await;

    // Calls several views in one process. The view that fails after its insert publishes nothing.
    let output = project
        .manage(&stack, &["call", "/pay/456/10/", "/pay/456/11/", "/broken/456/12/", "/outbox/456/13/"]);
    assert_eq!(output.await.lines().collect::<Vec<_>>(), ["200", "200", "500", "200", "0 in the outbox"]);
    assert_eq!(payments(&notifications(&stack, 456, 3).await), [1, 2, 5]);

    // Without NATS, both views succeed and the outbox keeps its event.
    stack.nats.kill().await;
    let output = project.manage(&stack, &["call", "/pay/456/20/", "/outbox/456/21/"]).await;
    assert_eq!(output.lines().collect::<Vec<_>>(), ["200", "200", "1 in the outbox"]);
    stack.nats.restart().await.unwrap();
    stack.ready().await;
    assert_eq!(project.manage(&stack, &["relay_events"]).await.trim(), "1 published");
    assert_eq!(payments(&notifications(&stack, 456, 4).await), [1, 2, 5, 7]);
    assert_eq!(project.manage(&stack, &["relay_events"]).await.trim(), "0 published");

    // Forked processes publish, too.
    let output = project.manage(&stack, &["call", "--fork", "/pay/457/30/", "/pay/457/31/"]).await;
    assert_eq!(output.lines().filter(|line| *line == "200").count(), 2, "{output}");
    notifications(&stack, 457, 2).await;
    assert!(Path::new(project.folder.path()).exists());
}
