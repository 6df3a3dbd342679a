"""The Hugging Face hub's HTTP interface on loopback, as far as publishing and fetching an adapter need it."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret"


class Hub:
    """Repositories as dicts of commits, and what was asked for.

    Attributes:
        commits: by repository, commit => files; dicts keep the order.
        tags: by repository, revision => commit.
        private: repositories that need the token.
        sizes: by file, a size that the metadata names in place of the true one.
        elsewhere: address of another server, to which downloads are redirected.
        requests: method, path and Authorization header of every request.
    """

    def __init__(self):
        self.commits, self.tags, self.private = {}, {}, set()
        self.sizes, self.elsewhere, self.requests = {}, None, []
        self.blobs = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo, files, tag=None):
        """Commit files by name; returns the commit."""
        commits = self.commits.setdefault(repo, {})
        whole = {**(list(commits.values())[-1] if commits else {}), **files}
        commit = hashlib.sha1(repr([len(commits), sorted(whole.items())]).encode()).hexdigest()
        commits[commit] = whole
        self.tags.setdefault(repo, {})["main"] = commit
        if tag:
            self.tags[repo][tag] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content, code=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code, what):
        self.answer({"error": what}, 404, **{"X-Error-Code": code, "X-Error-Message": what})

    def words(self):
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path, self.headers.get("Authorization")))
        return [unquote(word) for word in path.strip("/").split("/")]

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def known(self, repo, revision):
        """Commit and files, or None once the refusal is sent."""
        hidden = repo in self.hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if repo not in self.hub.tags or hidden:
            self.missing("RepoNotFound", "Repository not found")
            return None
        commit = self.hub.tags[repo].get(revision, revision)
        if commit not in self.hub.commits[repo]:
            self.missing("RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, self.hub.commits[repo][commit]

    def do_GET(self):
        words = self.words()
        if words[:2] == ["api", "models"]:
            repo, revision = "/".join(words[2:4]), "/".join(words[5:]) or "main"
            if found := self.known(repo, revision):
                commit, files = found
                siblings = [
                    {"rfilename": name, "size": self.hub.sizes.get(name, len(content)), "blobId": "0" * 40}
                    for name, content in files.items()
                ]
                self.answer({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": []})
        elif words[0] == "elsewhere":
            self.answer(self.hub.blobs[words[1]])
        elif len(words) >= 5 and words[2] == "resolve":
            repo, name = "/".join(words[:2]), "/".join(words[4:])
            if not (found := self.known(repo, words[3])):
                return
            commit, files = found
            if name not in files:
                return self.missing("EntryNotFound", "Entry not found")
            content = files[name]
            sha = hashlib.sha256(content).hexdigest()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{sha}"'}
            if self.hub.elsewhere is None:
                return self.answer(content, **headers)
            self.hub.blobs[sha] = content
            linked = {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content))}
            self.answer(b"", 302, Location=f"{self.hub.elsewhere}/elsewhere/{sha}", **headers, **linked)
        else:
            self.missing("RepoNotFound", self.path)

    do_HEAD = do_GET

    def do_PUT(self):
        words, content = self.words(), self.body()
        self.hub.blobs[words[1]] = content
        self.answer(b"")

    def do_POST(self):
        words, body = self.words(), self.body()
        if words == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401)
        if words == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            url = f"{self.hub.address}/{repo}"
            if repo in self.hub.tags:
                return self.answer({"error": "exists", "url": url}, 409)
            self.hub.add(repo, {".gitattributes": b""})
            if asked.get("private"):
                self.hub.private.add(repo)
            return self.answer({"url": url})
        if words[-1] == "batch":  # owner, name.git, info, lfs, objects, batch
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        repo = "/".join(words[2:4])
        if words[4] == "preupload":
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".png")) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        assert words[4] == "commit"
        files = {}
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = self.hub.add(repo, files)
        self.answer({"commitUrl": f"{self.hub.address}/{repo}/commit/{commit}", "commitOid": commit})
