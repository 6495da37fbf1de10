from django.contrib import admin
from django.urls import include, path

from . import offers, preferences, views

urlpatterns = [
    path("", views.listings, name="listings"),
    path("listings/<int:pk>/", views.listing, name="listing"),
    path("listings/<int:pk>/contact/", views.contact, name="contact"),
    path("listings/<int:pk>/buy/", views.buy, name="buy"),
    path("messages/", views.inbox, name="inbox"),
    path("messages/<int:pk>/", views.conversation, name="conversation"),
    path("messages/<int:pk>/offers/", offers.make, name="offers"),
    path("offers/<int:pk>/<str:state>/", offers.decide, name="offer"),
    path("sign-in/", views.sign_in, name="sign-in"),
    path("sign-out/", views.sign_out, name="sign-out"),
    path("preferences/", preferences.page, name="preferences"),
    path("preferences/push/", preferences.subscribe, name="push"),
    path("unsubscribe/<str:token>/", preferences.unsubscribe, name="unsubscribe"),
    path("sw.js", preferences.service_worker, name="service-worker"),
    path("realtime/", include("vyzio_realtime_django.urls")),
    path("admin/", admin.site.urls),
]
