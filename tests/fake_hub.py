"""A Hugging Face hub in a thread: repositories in memory, spoken to by the real client."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


class FakeHub:
    """Used as a context; `repos` is {"ORG/NAME": {file: bytes}}, `url` what HF_ENDPOINT must be."""

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(Answer):
            served = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()


class Answer(BaseHTTPRequestHandler):
    served: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words) -> None:
        return

    def reply(self, body: bytes | dict | list = b"", status: int = 200, **headers) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def is_known(self) -> bool:
        return self.headers.get("Authorization") == "Bearer secret"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.served.asked.append(f"{self.command} {path}")
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.*", path)
        if path == "/api/whoami-v2":
            if not self.is_known():
                return self.reply({"error": "Invalid user token"}, 401)
            return self.reply({"name": "org", "type": "user", "orgs": []})
        if about and about[1] not in self.served.repos:
            return self.reply(status=404, X_Error_Code="RepoNotFound")
        if tree:
            files = self.served.repos.get(tree[1], {})
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": "0"}
                for name, content in files.items()
            ]
            return self.reply(listed)
        if file:
            content = self.served.repos.get(file[1], {}).get(file[2])
            if content is None:
                return self.reply(status=404, X_Error_Code="EntryNotFound")
            etag = hashlib.sha1(content).hexdigest()
            return self.reply(content, X_Repo_Commit=COMMIT, ETag=f'"{etag}"')
        return self.reply({})

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else self.chunks()
        self.served.asked.append(f"POST {self.path}")
        if not self.is_known():
            return self.reply({"error": "Invalid user token"}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'org'}/{asked['name']}"
            self.served.repos.setdefault(name, {})
            return self.reply({"url": f"{self.served.url}/{name}", "name": name, "id": name})
        if "/preupload/" in self.path:
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return self.reply({"files": files})
        if "/commit/" in self.path:
            name = re.match(r"/api/models/([^/]+/[^/]+)/commit", self.path)[1]
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    content = base64.b64decode(item["value"]["content"])
                    self.served.repos[name][item["value"]["path"]] = content
            where = f"{self.served.url}/{name}/commit/{COMMIT}"
            return self.reply({"success": True, "commitOid": COMMIT, "commitUrl": where})
        return self.reply({"errors": [], "warnings": []})

    def chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
