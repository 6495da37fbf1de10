from django.contrib import admin

from .models import Listing, Offer, Payment

admin.site.register([Listing, Offer, Payment])
