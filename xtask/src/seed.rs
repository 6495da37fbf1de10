//! The demo's conversations: enough for two people's inboxes to look alive.

use std::time::Duration;

use anyhow::{Context, bail};
use contract::{
    ConversationId, Request, UserId,
    chat::{CreateConversation, Invitee, Send, SendOne},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The two people of the demo: who they are to the backend, and what they are called.
pub const PEOPLE: [(i64, &str); 2] = [(1, "alice"), (2, "bruno")];

const ALICE: (i64, &str) = PEOPLE[0];
const BRUNO: (i64, &str) = PEOPLE[1];
const CHLOE: (i64, &str) = (3, "chloé");
const DAVID: (i64, &str) = (4, "david");
const EMMA: (i64, &str) = (5, "emma");

/// A conversation about a listing, and who said what in it.
struct Talk {
    listing_id: i64,
    title: &'static str,
    people: [(i64, &'static str); 2],
    /// From the first of the people where true, from the second otherwise.
    said: Vec<(bool, String)>,
}

/// All of them; the one that happened last comes last.
fn talks() -> Vec<Talk> {
    let talk = |listing_id, title, people, said: &[(bool, &str)]| Talk {
        listing_id,
        title,
        people,
        said: said.iter().map(|(first, text)| (*first, (*text).to_owned())).collect(),
    };
    vec![
        Talk {
            listing_id: 6,
            title: "Cours de guitare, 25 € de l’heure",
            people: [BRUNO, EMMA],
            said: lessons(),
        },
        talk(
            5,
            "Table de ferme, 180 €",
            [DAVID, ALICE],
            &[
                (true, "Bonjour, la table fait quelle longueur ?"),
                (false, "Deux mètres dix, et elle se démonte."),
                (true, "Parfait. Je passe samedi matin ?"),
                (false, "Samedi 10 h, je vous envoie l’adresse."),
                (true, "Table récupérée, elle est superbe. Merci !"),
                (false, "Merci à vous, et bon appétit 🙂"),
            ],
        ),
        talk(
            4,
            "Appareil photo argentique, 90 €",
            [BRUNO, DAVID],
            &[
                (true, "Bonsoir, la cellule fonctionne encore ?"),
                (false, "Oui, testée hier avec une pellicule neuve."),
                (true, "Vous pouvez l’envoyer ?"),
                (false, "Oui, 6 € de port. Je vous l’emballe bien."),
                (false, "Le colis est parti ce matin 📦"),
            ],
        ),
        talk(
            3,
            "Lampe de bureau vintage, 35 €",
            [ALICE, EMMA],
            &[
                (true, "Bonjour ! La lampe est-elle livrée avec son ampoule ?"),
                (false, "Oui, une LED presque neuve."),
                (true, "Je la prends. Paiement en ligne ?"),
                (false, "Oui, c’est plus simple pour tous les deux."),
                (true, "C’est payé."),
            ],
        ),
        talk(
            2,
            "Canapé trois places, 250 €",
            [CHLOE, ALICE],
            &[
                (true, "Bonjour Alice, votre canapé m’intéresse."),
                (false, "Bonjour Chloé ! Il est toujours disponible."),
                (true, "Il passe par une porte de 80 cm ?"),
                (false, "Oui, les pieds se dévissent."),
                (true, "Génial. Vous accepteriez 220 € si je viens le chercher demain ?"),
                (true, "J’ai une camionnette 🚚"),
            ],
        ),
        talk(
            1,
            "Vélo de ville, 120 €",
            [ALICE, BRUNO],
            &[
                (true, "Bonjour Bruno, le vélo est-il encore disponible ?"),
                (false, "Bonjour Alice ! Oui, il est toujours là. Les pneus et les freins sont neufs."),
                (true, "Quelle taille fait le cadre ?"),
                (false, "Un 52, parfait entre 1,62 m et 1,75 m."),
                (true, "C’est ma taille. Je peux passer l’essayer ce soir ?"),
                (false, "Avec plaisir, à partir de 18 h."),
            ],
        ),
    ]
}

/// Enough of them that the first ones are on another page.
fn lessons() -> Vec<(bool, String)> {
    let songs = [
        "Blackbird",
        "Jeux interdits",
        "Wish You Were Here",
        "La Bohème",
        "Tears in Heaven",
        "Redemption Song",
    ];
    (1..=18)
        .flat_map(|lesson| {
            let song = songs[lesson % songs.len()];
            [
                (true, format!("Leçon {lesson} : mardi à 18 h, comme d’habitude ?")),
                (false, "Oui, parfait.".to_owned()),
                (true, format!("On travaille « {song} ». La partition est dans votre casier.")),
                (false, "Merci, je la regarde d’ici là 🎸".to_owned()),
            ]
        })
        .collect()
}

/// Makes the demo's conversations, as a marketplace's backend would, and says what happened in them; the one of the
/// two people. Done again, it changes nothing: people and listing are the same conversation, a `client_id` the same
/// message, an `event_id` the same notification.
pub async fn conversations(nats: &str) -> anyhow::Result<ConversationId> {
    let backend = Backend(async_nats::connect(nats).await.context("connect to NATS")?);
    let mut last = None;
    for talk in talks() {
        last = Some(backend.hold(talk).await?);
    }
    for (event, data) in [
        ("listing_published", json!({"user_id": ALICE.0, "event_id": "demo-1", "data": {"listing_id": 2}})),
        ("payment_completed", json!({"user_id": ALICE.0, "event_id": "demo-2", "data": {"payment_id": 788}})),
        ("listing_published", json!({"user_id": BRUNO.0, "event_id": "demo-3", "data": {"listing_id": 1}})),
    ] {
        let published = backend.0.publish(format!("events.{event}"), data.to_string().into());
        published.await.context("publish a notification of the demo")?;
    }
    backend.0.flush().await.context("publish the demo's notifications")?;
    last.context("there are conversations")
}

struct Backend(async_nats::Client);

#[derive(Deserialize)]
struct Made {
    conversation_id: ConversationId,
}

impl Backend {
    async fn hold(&self, talk: Talk) -> anyhow::Result<ConversationId> {
        let invite = |(user, name): (i64, &str)| -> anyhow::Result<Invitee> {
            Ok(Invitee { user_id: UserId::new(user)?, username: Some(name.to_owned()) })
        };
        let wish = CreateConversation {
            participants: talk.people.into_iter().map(invite).collect::<anyhow::Result<_>>()?,
            listing_id: Some(talk.listing_id),
            title: Some(talk.title.to_owned()),
        };
        let Made { conversation_id } = self.ask(CreateConversation::SUBJECT, &wish).await?;
        for (at, (first, message)) in talk.said.into_iter().enumerate() {
            let (user, name) = talk.people[usize::from(!first)];
            let send = SendOne(Send {
                sender_named_at: None,
                conversation_id,
                sender_id: UserId::new(user)?,
                sender_username: Some(name.to_owned()),
                message,
                client_id: Some(format!("demo-{at}")),
            });
            self.ask::<serde::de::IgnoredAny>(SendOne::SUBJECT, &send).await?;
        }
        Ok(conversation_id)
    }

    async fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        subject: &'static str,
        question: &impl Serialize,
    ) -> anyhow::Result<T> {
        let asked = self.0.request(subject, serde_json::to_vec(question)?.into());
        let answer = tokio::time::timeout(Duration::from_secs(10), asked)
            .await
            .context("chat-service does not answer")?
            .context("ask chat-service for the demo's conversations")?;
        if let Some(error) = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error")) {
            bail!("chat-service refuses the demo's conversations: {error}");
        }
        serde_json::from_slice(&answer.payload).context("read chat-service's answer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use e2e::{Options, Stack};
    use serde_json::Value;

    #[tokio::test]
    async fn both_inboxes_are_alive_and_seeding_again_changes_nothing() {
        let stack = Stack::with(Options { accounts: false, ..Options::default() }).await;
        let look =
            async || {
                let mut seen = Vec::new();
                for (user, _) in PEOPLE {
                    let list = stack.get("/api/conversations", user).await;
                    let items = list["items"].as_array().expect("a page").clone();
                    seen.extend(items.into_iter().map(|item| {
                        json!([item["title"], item["unread_count"], item["last_message"]["seq"]])
                    }));
                }
                seen
            };
        let first = conversations(&stack.nats.url()).await.expect("seeded");
        let seen = look().await;
        assert_eq!(conversations(&stack.nats.url()).await.expect("seeded again"), first);
        assert_eq!(look().await, seen);
        let unread: Vec<(&str, i64)> = seen
            .iter()
            .map(|item: &Value| (item[0].as_str().expect("a title"), item[1].as_i64().expect("a count")))
            .collect();
        assert_eq!(
            unread,
            [
                ("Vélo de ville, 120 €", 1),
                ("Canapé trois places, 250 €", 2),
                ("Lampe de bureau vintage, 35 €", 0),
                ("Table de ferme, 180 €", 0),
                ("Vélo de ville, 120 €", 0),
                ("Appareil photo argentique, 90 €", 2),
                ("Cours de guitare, 25 € de l’heure", 1),
            ]
        );
        let shown = e2e::eventually("the notifications", async || {
            let page = stack.get("/api/notifications?unread=true", PEOPLE[0].0).await;
            let items = page["items"].as_array().expect("a page");
            (items.len() == 4).then_some(items.len())
        });
        assert_eq!(shown.await, 4, "two events, and a message in each of two conversations");
    }
}
