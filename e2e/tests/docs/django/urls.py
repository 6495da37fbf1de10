from django.db import transaction
from django.urls import path

from shop import views


@transaction.atomic
def broken(request, user_id, amount):
    views.pay(request, user_id, amount)
    raise RuntimeError("after the payment")


urlpatterns = [
    path("pay/<int:user_id>/<int:amount>/", views.pay),
    path("broken/<int:user_id>/<int:amount>/", broken),
]
