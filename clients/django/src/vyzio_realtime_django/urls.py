"""`path("realtime/", include("vyzio_realtime_django.urls"))`"""

from django.urls import path

from . import views

app_name = "vyzio_realtime"
urlpatterns = [
    path("token/", views.token, name="token"),
    path("webhook/", views.webhook, name="webhook"),
]
