"""What is in each of the tests' images."""

import subprocess
import tarfile

from layout import Layer

PACKAGES = [
    "busybox-static", "nginx", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g", "attr", "libattr1",
]

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
app:x:1234:1234:an application:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""

GROUP = """\
root:x:0:
daemon:x:1:
tty:x:5:
www-data:x:33:
app:x:1234:
extra:x:4321:app
more:x:4322:app,www-data
nobody:x:65534:
"""

NGINX_CONF = """\
user root;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
  access_log /dev/stdout;
  client_body_temp_path /tmp/body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server { listen 80; root /srv; }
}
"""

# linux/capability.h: VFS_CAP_REVISION_2 with VFS_CAP_FLAGS_EFFECTIVE; permitted is CAP_NET_RAW (bit 13).
NET_RAW = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"


def base(root, dynamic=False):
    """Busybox and what every system has: a layer below others. `dynamic`: it needs libraries."""
    layer = Layer()
    listed = subprocess.run([f"{root}/bin/busybox", "--list"], check=True, capture_output=True, text=True)
    if dynamic:
        layer.program(root, "/bin/busybox")
    else:
        layer.copy("bin/busybox", f"{root}/bin/busybox")
    for applet in sorted(set(listed.stdout.split()) - {"busybox"}):
        layer.hard_link(f"bin/{applet}", "bin/busybox")
    for path in ("dev", "proc", "sys", "run", "usr/bin", "var/www"):
        layer.directory(path)
    layer.directory("tmp", 0o1777)
    layer.directory("root", 0o700)
    layer.directory("home/app", 0o750, uid=1234, gid=1234)
    return layer.text("etc/passwd", PASSWD).text("etc/group", GROUP)


def _layered(root):
    """Three layers, one of each compression, with every kind of entry and of whiteout."""
    first = Layer("gzip").program(root, "/usr/bin/getfattr")
    plain = {"mode": 0o640, "uid": 1000, "gid": 100, "mtime": 1000000000}
    first.directory("l", 0o700, uid=1, gid=1)
    first.text("l/plain", "plain\n", **plain)
    first.text("l/empty", "", 0o000)
    first.text("l/gone", "removed by the second layer\n")
    first.text("l/replaced", "old\n")
    first.text("l/tree/a", "a\n").text("l/tree/b", "b\n")
    first.text("l/opaque/old", "hidden\n")
    first.text("l/was-directory/inside", "hidden\n")
    first.text("l/was-file", "hidden\n")
    first.hard_link("l/hard", "l/plain")
    first.symlink("l/link", "plain", mtime=1).symlink("l/absolute", "/l/plain").symlink("l/dangling", "nowhere")
    first.add("l/pipe", tarfile.FIFOTYPE, mode=0o622)
    first.add("l/device", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
    first.copy("l/setuid", f"{root}/bin/busybox", 0o4755)
    first.directory("l/sticky", 0o3777, gid=100)
    first.text("l/" + "n" * 200, "a long name\n")
    first.text("l/\u00e5\u00df \u65e5", "a name of other letters\n")
    first.text("l/attributes", "x\n", pax_headers={"SCHILY.xattr.user.note": "kept"})
    first.copy("l/capable", f"{root}/bin/busybox", pax_headers={"SCHILY.xattr.security.capability": NET_RAW})
    first.text("l/nanoseconds", "", pax_headers={"mtime": "1234567890.123456789"})

    second = Layer("zstd")
    second.text("l/.wh.gone", "")
    second.text("l/replaced", "new\n", 0o600)
    second.text("l/tree/.wh.a", "").text("l/tree/c", "c\n")
    second.directory("l/opaque").text("l/opaque/.wh..wh..opq", "").text("l/opaque/new", "seen\n")
    second.text("l/was-directory", "a file now\n")
    second.text("l/.wh.was-file", "").text("l/was-file/inside", "a directory now\n")
    second.text("l/again", "removed by the third layer\n")
    second.add("l/big", data=bytes(range(256)) * 8192)

    third = Layer("none")
    # A directory that is there already takes the attributes of its last entry.
    third.directory("l", 0o711, uid=7, gid=8)
    third.text("l/.wh.again", "")
    third.hard_link("l/hard-to-lower", "l/plain", **plain)
    third.text("l/gone", "back\n")
    return [first, second, third]


def write(layout, root):
    """Writes them all."""
    lowest = base(root)
    shell = {"Env": [PATH], "Cmd": ["sh"]}
    layout.image("busybox", [lowest], shell)

    nginx = Layer().program(root, "/usr/sbin/nginx")
    nginx.text("etc/nginx/nginx.conf", NGINX_CONF).text("srv/index.html", "nginx in a pod\n")
    nginx.directory("var/log/nginx").directory("var/lib/nginx")
    layout.image("nginx", [lowest, nginx], {
        "Env": [PATH],
        "Entrypoint": ["nginx", "-g", "daemon off;"],
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGQUIT",
    })

    layout.image("layers", [lowest, *_layered(root)], shell)

    # For volumes: links that want out of the image, to names that the guest has as well.
    volume = Layer().text("data/file", "file\n").text("data/deep/below", "below\n")
    volume.text("run/husk/etc/hosts", "of the image\n").symlink("to-deep", "/data/deep")
    volume.symlink("out", "../../../../run/husk/etc").symlink("absolute", "/run/husk/etc")
    volume.symlink("proc-root", "/proc/self/root").symlink("round", "round")
    volume.add("pipe", tarfile.FIFOTYPE, mode=0o622)
    layout.image("volume", [volume], shell)

    work = Layer().directory("work/here", uid=1234, gid=1234)
    work.text("bin/report", "#!/bin/sh\necho \"arguments:$*\"\necho \"directory:$PWD\"\necho \"user:$(id)\"\n"
              "env | sort | sed 's/^/env:/'\n", 0o755)
    work.text("bin/until-usr1", "#!/bin/sh\ntrap 'echo USR1; exit 9' USR1\ntrap '' TERM\necho ready\n"
              "while :; do sleep 0.1; done\n", 0o755)
    config = {
        "User": "app",
        "WorkingDir": "/work/here",
        "Env": [PATH, "FROM_IMAGE=image", "BOTH=image"],
        "Entrypoint": ["/bin/report", "entrypoint"],
        "Cmd": ["cmd"],
        "StopSignal": "SIGUSR1",
    }
    # The other platform's comes first: a runtime must choose, not take the first.
    other = layout.manifest([lowest], shell, architecture="arm64")
    layout.multi("user", [other, layout.manifest([lowest, work], config)])
    layout.multi("arm", [other])

    # Broken ones. The tests damage the blobs of the first two in the registry itself.
    layout.image("corrupt", [lowest, Layer().text("corrupt", "to be damaged\n" * 100)], shell)
    layout.image("missing", [lowest, Layer().text("missing", "to be deleted\n" * 100)], shell)
    wrong = ["sha256:" + "0" * 64]
    layout.image("mislabelled", [Layer().text("other", "not what the configuration says\n")], shell, diff_ids=wrong)
