from django.contrib import admin
from django.urls import include, path

from . import views

urlpatterns = [
    path("", views.listings),
    path("listings/<int:pk>/", views.listing, name="listing"),
    path("listings/<int:pk>/contact/", views.contact, name="contact"),
    path("listings/<int:pk>/pay/", views.pay, name="pay"),
    path("no-mails/<str:token>/", views.no_mails, name="no-mails"),
    path("realtime/", include("vyzio_realtime_django.urls")),
    path("admin/", admin.site.urls),
]
