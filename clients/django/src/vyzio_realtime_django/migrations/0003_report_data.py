from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("vyzio_realtime", "0002_moderation"),
    ]

    operations = [
        migrations.AddField(
            model_name="report",
            name="kind",
            field=models.CharField(blank=True, default="", max_length=64),
        ),
        migrations.AddField(
            model_name="report",
            name="data",
            field=models.TextField(blank=True, default=""),
        ),
    ]
