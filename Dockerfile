# `astro dev start` builds this image of the Astro project, with packages.txt, requirements.txt and the folders in it.
# The tag determines the Airflow version: Astro Runtime 3.3-8 is Airflow 3.3.2. For Airflow 2, use another image,
# quay.io/astronomer/astro-runtime:13.11.0 (Airflow 2.11.2).
# All versions: https://www.astronomer.io/docs/runtime/runtime-release-notes
FROM astrocrpublic.azurecr.io/runtime:3.3-8
