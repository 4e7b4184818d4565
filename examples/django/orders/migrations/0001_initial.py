"""Which tables are there first?"""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """As `manage.py makemigrations` makes it."""

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("packed_by", models.CharField(default="", max_length=80)),
            ],
        ),
    ]
