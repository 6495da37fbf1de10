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

listing_published = Annonce publiée
    .message = Votre annonce est maintenant visible
