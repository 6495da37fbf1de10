from django.db import models


class Payment(models.Model):
    user_id = models.BigIntegerField()
    amount = models.IntegerField()
