from django.db import transaction
from django.urls import path

from shop import outbox_views, views


@transaction.atomic
def broken(request, user_id, amount):
    views.pay(request, user_id, amount)
    outbox_views.pay(request, user_id, amount)
    raise RuntimeError("after both")


urlpatterns = [
    path("pay/<int:user_id>/<int:amount>/", views.pay),
    path("outbox/<int:user_id>/<int:amount>/", outbox_views.pay),
    path("broken/<int:user_id>/<int:amount>/", broken),
]
