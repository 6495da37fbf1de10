# The texts of notifications, in English. See fr.ftl for how they are written.

message_received = New message
    .message = { $sender_username } sent a message

payment_completed = Payment confirmed
    .message = Your payment has been processed

listing_published = Listing published
    .message = Your listing is now visible
