//! The demo's conversations, which fill the inboxes of two users.

use std::time::Duration;

use anyhow::{Context, bail};
use contract::{
    ConversationId, Request, UserId,
    chat::{CreateConversation, Invitee, SendOne},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Ids and names of the demo's two users.
pub const PEOPLE: [(i64, &str); 2] = [(1, "alice"), (2, "bruno")];

const ALICE: (i64, &str) = PEOPLE[0];
const BRUNO: (i64, &str) = PEOPLE[1];
const CHLOE: (i64, &str) = (3, "chloé");
const DAVID: (i64, &str) = (4, "david");
const EMMA: (i64, &str) = (5, "emma");

/// A conversation about a listing, with its messages.
struct Chat {
    listing_id: i64,
    title: &'static str,
    people: [(i64, &'static str); 2],
    /// Messages: true if sent by the first participant, false if by the second.
    messages: Vec<(bool, String)>,
}

/// All conversations, oldest first.
fn chats() -> Vec<Chat> {
    let chat = |listing_id, title, people, messages: &[(bool, &str)]| Chat {
        listing_id,
        title,
        people,
        messages: messages.iter().map(|(first, text)| (*first, (*text).to_owned())).collect(),
    };
    vec![
        Chat {
            listing_id: 6,
            title: "Cours de guitare, 25 € de l’heure",
            people: [BRUNO, EMMA],
            messages: lessons(),
        },
        chat(
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
        chat(
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
        chat(
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
        chat(
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
        chat(
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

/// Messages of a long conversation, so that the first ones are on another page.
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

/// Creates the demo's conversations, messages and notifications, as a marketplace's backend would. Returns the
/// conversation of the two users. It is idempotent: the same participants and listing are the same conversation, a
/// repeated `client_id` is the same message, and a repeated `event_id` is the same notification.
pub async fn conversations(nats: &str) -> anyhow::Result<ConversationId> {
    let backend = Backend(async_nats::connect(nats).await.context("connect to NATS")?);
    let mut last = None;
    for chat in chats() {
        last = Some(backend.create(chat).await?);
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
    last.context("there are no conversations")
}

struct Backend(async_nats::Client);

#[derive(Deserialize)]
struct Created {
    conversation_id: ConversationId,
}

impl Backend {
    async fn create(&self, chat: Chat) -> anyhow::Result<ConversationId> {
        let invite = |(user, name): (i64, &str)| -> anyhow::Result<Invitee> {
            Ok(Invitee { user_id: UserId::new(user)?, username: Some(name.to_owned()) })
        };
        let request = CreateConversation {
            participants: chat.people.into_iter().map(invite).collect::<anyhow::Result<_>>()?,
            listing_id: Some(chat.listing_id),
            title: Some(chat.title.to_owned()),
        };
        let Created { conversation_id } = self.request(CreateConversation::SUBJECT, &request).await?;
        for (at, (first, message)) in chat.messages.into_iter().enumerate() {
            let (user, name) = chat.people[usize::from(!first)];
            let send = SendOne {
                sender_named_at: None,
                conversation_id,
                sender_id: Some(UserId::new(user)?),
                system: false,
                sender_username: Some(name.to_owned()),
                message: Some(message),
                client_id: Some(format!("demo-{at}")),
                kind: None,
                data: None,
                reply_to: None,
            };
            self.request::<serde::de::IgnoredAny>(SendOne::SUBJECT, &send).await?;
        }
        Ok(conversation_id)
    }

    async fn request<T: for<'a> Deserialize<'a>>(
        &self,
        subject: &'static str,
        request: &impl Serialize,
    ) -> anyhow::Result<T> {
        let reply = self.0.request(subject, serde_json::to_vec(request)?.into());
        let reply = tokio::time::timeout(Duration::from_secs(10), reply)
            .await
            .context("no reply from chat-service")?
            .context("send a request to chat-service")?;
        if let Some(error) = reply.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error")) {
            bail!("chat-service refused a request of the demo: {error}");
        }
        serde_json::from_slice(&reply.payload).context("decode the reply of chat-service")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use e2e::{Options, Stack};
    use serde_json::Value;

    #[tokio::test]
    async fn both_inboxes_are_filled_and_seeding_is_idempotent() {
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
