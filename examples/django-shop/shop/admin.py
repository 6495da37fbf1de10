from django.contrib import admin

from .models import Listing, Payment

admin.site.register([Listing, Payment])
