"""Fetches the chat templates of real models that llama.cpp's source package on
PyPI carries, into the folder that is named. Nothing is built and nothing of
the package is run; it is 77 MB, and only its templates are kept (0.5 MB). They
are their models' makers', each under its own licence, and not part of this
repository for that reason.

Uses the package index of PIP_INDEX_URL, else PyPI's. Needs Python alone.
"""

import hashlib
import html
import io
import os
import re
import sys
import tarfile
import urllib.parse
import urllib.request

PROJECT = "llama-cpp-python"
FILE = "llama_cpp_python-0.3.36.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = "/vendor/llama.cpp/models/templates/"


def get(url):
    with urllib.request.urlopen(url, timeout=120) as response:
        return response.read()


def main(folder):
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    page_url = f"{index}/{PROJECT}/"
    page = get(page_url).decode()
    links = (html.unescape(link) for link in re.findall(r'href="([^"]+)"', page))
    link = next((link for link in links if f"/{FILE}" in link), None)
    if link is None:
        sys.exit(f"{page_url} does not have {FILE}")
    package = get(urllib.parse.urljoin(page_url, link))
    digest = hashlib.sha256(package).hexdigest()
    if digest != SHA256:
        sys.exit(f"{FILE} is not the file it was: its SHA-256 is {digest}")
    os.makedirs(folder, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if INSIDE in member.name and name.endswith(".jinja") and member.isfile():
                with open(os.path.join(folder, name), "wb") as out:
                    out.write(archive.extractfile(member).read())


main(sys.argv[1])
