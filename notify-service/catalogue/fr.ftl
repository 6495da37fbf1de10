# Les textes des notifications, en français : la langue par défaut.
#
# Un message par type, du nom du type (un point y devient un tiret) : sa valeur est le titre, son attribut « .message »
# le texte. Les nombres et les textes de « data » s'écrivent { $payment_id } ; un événement qui ne les a pas tous n'est
# pas notifié. Un nombre s'accorde ainsi :
#
#   .message = { $count ->
#       [one] Une annonce vous attend
#      *[other] { $count } annonces vous attendent
#   }

# Trois attributs facultatifs, lus dans ce fichier d'abord, règlent les rappels d'un type (docs/reminders.md) :
#
#   .remind = push, mail     ses étapes, parmi celles de REMINDERS ; sans lui, toutes pour message_received, aucune sinon
#   .default = mail          celles qui sont actives tant que l'utilisateur ne choisit rien ; sans lui, toutes ; « none » : aucune
#   .mandatory = yes         l'utilisateur ne peut pas les désactiver

# Ses paramètres : sender_username, count, conversation_id, message_id, et kind, le genre du dernier message
# (« offer », « order » ; « message » pour un message ordinaire) :
#
#   .message = { $kind ->
#       [offer] { $sender_username } vous fait une offre
#      *[other] { $sender_username } a envoyé un message
#   }
message_received = Nouveau message
    .message = { $sender_username } a envoyé un message

payment_completed = Paiement confirmé
    .message = Votre paiement a été traité
    .mandatory = yes

listing_published = Annonce publiée
    .message = Votre annonce est maintenant visible
