//! The package: its files, and a clean project that installs it.

use e2e::node;
use std::fs;

/// JavaScript that `clients/js/build.mjs` builds and that is committed.
const BUILT: [&str; 18] = [
    "index.js",
    "index.cjs",
    "react.js",
    "react.cjs",
    "edits.js",
    "kinds.js",
    "kinds.cjs",
    "native.js",
    "native.cjs",
    "lists.js",
    "persist.js",
    "poll.js",
    "presence.js",
    "presence.cjs",
    "settings.js",
    "settings.cjs",
    "realtime.min.js",
    "realtime.global.js",
];

#[tokio::test]
async fn the_built_client_is_current_and_small() {
    let tools = match node::tools().await {
        Ok(tools) => tools,
        Err(reason) => return node::skip("the build of clients/js", &reason),
    };
    tools.node(&["node_modules/typescript/bin/tsc"], &[]).await;
    let committed = BUILT.map(|name| tools.read(&format!("dist/{name}")));
    // Fails if a file is too large.
    println!("{}", tools.node(&["build.mjs"], &[]).await);
    for (name, committed) in BUILT.iter().zip(committed) {
        let current = tools.read(&format!("dist/{name}"));
        assert!(committed == current, "dist/{name} is outdated; `npm run build` in clients/js rewrites it");
    }
    assert_eq!(tools.read("LICENSE"), include_str!("../../../LICENSE"));
}

/// A program for each way to use the package. Each ends with an error if something is missing.
const PROGRAMS: [(&str, &str); 5] = [
    ("esm.mjs", "import { connect } from '@vyzio/realtime'; if (typeof connect !== 'function') throw connect;"),
    ("cjs.cjs", "const { connect } = require('@vyzio/realtime'); if (typeof connect !== 'function') throw connect;"),
    (
        "kinds.cjs",
        "const { textOf } = require('@vyzio/realtime/kinds'); if (typeof textOf !== 'function') throw textOf;",
    ),
    (
        "settings.cjs",
        "const parts = [require('@vyzio/realtime/presence').presenceOf, require('@vyzio/realtime/settings').setMine];
         if (parts.some((part) => typeof part !== 'function')) throw parts;",
    ),
    (
        "global.cjs",
        "const { readFileSync } = require('node:fs'); const path = require.resolve('@vyzio/realtime/realtime.global.js');
         require('node:vm').runInThisContext(readFileSync(path, 'utf8'));
         if (typeof VyzioRealtime.connect !== 'function') throw VyzioRealtime;",
    ),
];

/// A page in TypeScript, with every type by its name.
const TYPED: &str = "import { connect } from '@vyzio/realtime';
import { original, textOf } from '@vyzio/realtime/kinds';
import { type Presence, presenceOf } from '@vyzio/realtime/presence';
import { type Preferences, isMuted, preferencesOf } from '@vyzio/realtime/settings';
import type { KindMessage } from './kinds.mjs';
import type {
    Conversation, ConversationInfo, Conversations, Failure, Message, Notification, Notifications, Options, Person, Realtime,
    Result, State, StoredMessage,
} from '@vyzio/realtime';
const options: Options = { url: 'http://127.0.0.1:1', token: () => null };
const rt: Realtime = connect(options);
const chat: Conversation = rt.conversation('8');
const list: Conversations = rt.conversations();
const inbox: Notifications = rt.notifications();
chat.on('message', (message: StoredMessage) => message.message_id.toFixed());
export const text = (message: Message): string => message.state === 'failed' ? message.error.code : message.content;
export const shown: [State, Failure | null, readonly ConversationInfo[], readonly Notification[], readonly Person[]] =
    [rt.state, rt.error, list.items, inbox.items, chat.typists];
export const price = (message: KindMessage): number | null => message.kind === 'offer' ? message.data.amount : null;
const presence: Presence = presenceOf(rt, 8);
const preferences: Preferences = preferencesOf(rt);
export const own: [boolean, boolean | undefined, boolean] =
    [list.items.some(isMuted), presence.of(457)?.online, preferences.isOn('listing_published', 'mail')];
export const replied = (message: Message) => original(rt, chat, message);
export const french: string | null = textOf({}, {}, 'fr');
export const call = async (): Promise<Result<unknown>> => rt.call('GET', '/api/unread');
";

#[tokio::test]
async fn a_clean_project_installs_the_package() {
    let tools = match node::tools().await {
        Ok(tools) => tools,
        Err(reason) => return node::skip("the package of clients/js", &reason),
    };
    let packed = tools.npm(&["pack", "--json"]).await.unwrap();
    // The build writes to the same output, before the JSON.
    let json = packed.find("[\n").or_else(|| packed.find("{\n")).expect("JSON");
    let packed: serde_json::Value = serde_json::from_str(&packed[json..]).unwrap();
    let package = packed.get(0).or_else(|| packed.get("@vyzio/realtime")).unwrap();
    let files: Vec<&str> =
        package["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    for name in ["LICENSE", "README.md", "package.json", "dist/types/index.d.ts", "dist/types/index.d.cts"] {
        assert!(files.contains(&name), "{name} is missing in {files:?}");
    }
    for name in BUILT {
        assert!(files.contains(&format!("dist/{name}").as_str()), "{name} is missing in {files:?}");
        assert!(files.contains(&format!("dist/{name}.map").as_str()), "{name}.map is missing in {files:?}");
    }
    let unexpected: Vec<_> =
        files.iter().filter(|name| name.starts_with("src/") || name.starts_with("test/")).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");

    let project = tools.folder().join("clean");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("package.json"), r#"{ "private": true, "type": "commonjs" }"#).unwrap();
    let tarball = tools.folder().join(package["filename"].as_str().unwrap());
    let tarball = tarball.to_str().unwrap();
    let install = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", "clean", tarball];
    tools.npm(&[&install[..], &["--install-links"]].concat()).await.unwrap_or_else(|error| panic!("{error}"));
    for (name, program) in PROGRAMS {
        fs::write(project.join(name), program).unwrap();
        tools.node(&[&format!("clean/{name}")], &[]).await;
    }
    // The types of the kinds, as the package's program writes them.
    let kinds = concat!(env!("CARGO_MANIFEST_DIR"), "/../chat-service/kinds");
    let types = tools.node(&["clean/node_modules/@vyzio/realtime/bin/kinds.js", kinds], &[]).await;
    assert!(types.contains("\"amount\": number;"), "{types}");
    fs::write(project.join("kinds.mts"), types).unwrap();
    // For both module systems: the types say the same as the program.
    for name in ["page.mts", "page.cts"] {
        fs::write(project.join(name), TYPED).unwrap();
    }
    let options = r#"{ "files": ["page.mts", "page.cts"], "compilerOptions": { "strict": true, "noEmit": true, "types": [],
        "module": "NodeNext", "target": "ES2022", "lib": ["ES2023", "DOM"] } }"#;
    fs::write(project.join("tsconfig.json"), options).unwrap();
    tools.node(&["node_modules/typescript/bin/tsc", "-p", "clean"], &[]).await;
}
