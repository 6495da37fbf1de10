from django.contrib import admin
from django.urls import include, path

from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("realtime/", include("vyzio_realtime_django.urls")),
    path("pay/<int:user_id>/", views.pay),
    path("broken/<int:user_id>/", views.broken),
    path("async/<int:user_id>/", views.pay_async),
    path("killed/<int:user_id>/", views.killed),
    path("several/<int:user_id>/", views.several),
    path("page/", views.page),
]
