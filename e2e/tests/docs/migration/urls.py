from django.http import HttpResponse
from django.urls import path
from rest_framework_simplejwt.views import TokenObtainPairView

from boutique.vues import paiement_recu

urlpatterns = [
    path("page/", lambda request: HttpResponse("a page")),
    path("token/", TokenObtainPairView.as_view()),
    path("paiement/<int:user_id>/<int:payment_id>/", paiement_recu),
]
