//! Names of programs as people start them. Must never test anything but names.

use super::*;

/// `executable` as /proc shows it, and a command line split at blanks.
fn facts(executable: &str, command: &str) -> ProcessFacts {
    ProcessFacts {
        executable: executable.as_bytes().to_vec(),
        argv: command.split_whitespace().map(|word| word.as_bytes().to_vec()).collect(),
        directory: b"/srv/shop".to_vec(),
        ..ProcessFacts::default()
    }
}

#[track_caller]
fn check(executable: &str, command: &str, name: &str, source: NameSource) {
    assert_eq!(
        service_name(&facts(executable, command)),
        (name.to_owned(), source),
        "{executable}: {command}"
    );
}

/// As only the exec record tells it: no /proc, no working directory.
#[track_caller]
fn check_record(filename: &str, command: &str, name: &str) {
    let facts = ProcessFacts {
        filename: filename.as_bytes().to_vec(),
        executable: Vec::new(),
        directory: Vec::new(),
        ..facts("", command)
    };
    assert_eq!(service_name(&facts).0, name, "{filename}: {command}");
}

use NameSource::*;

const PYTHON: &str = "/usr/bin/python3.11";

#[test]
fn python_is_named_by_its_script_or_module() {
    check(PYTHON, "python3 app.py", "app", Script);
    check(PYTHON, "python3 -u app.py", "app", Script);
    check(PYTHON, "python3 -m http.server 8000", "http.server", Module);
    check(PYTHON, "python3 -mhttp.server", "http.server", Module);
    check(PYTHON, "python3 -um http.server", "http.server", Module);
    check(PYTHON, "python3 -X dev -W ignore -m pkg.mod", "pkg.mod", Module);
    check(PYTHON, "python3 -Xdev -Wignore -B /srv/x/worker.py --m y", "worker", Script);
    check(PYTHON, "python3 --check-hash-based-pycs always cart.py", "cart", Script);
    check(PYTHON, "python3 -- cart.py", "cart", Script);
    check(PYTHON, "python3 /srv/cart/main.py", "cart", Script);
    check(PYTHON, "python3 main.py", "shop", Script);
    check(PYTHON, "python3 ./main.py", "shop", Script);
    check(PYTHON, "python3 ../cart/__main__.py", "cart", Script);
    check(PYTHON, "python3 /srv/cart/", "cart", Script);
    check(PYTHON, "python3 .", "shop", Script);
    check(PYTHON, "python3 shop.pyz", "shop", Script);
    check(PYTHON, "python3 /usr/local/bin/flask run", "flask", Script);
    check("/usr/bin/pypy3", "pypy3 app.py", "app", Script);
    check("/usr/bin/python3.6m", "python3 app.py", "app", Script);
}

#[test]
fn code_without_a_name_is_the_interpreters() {
    check(PYTHON, "python3 -c import(x) app.py", "python3", Executable);
    check(PYTHON, "python3 -uc pass", "python3", Executable);
    check(PYTHON, "python3", "python3", Executable);
    check(PYTHON, "python3 -", "python3", Executable);
    check(PYTHON, "/srv/venv/bin/python -c pass", "python", Executable);
    check("/usr/bin/node", "node -e code x.js", "node", Executable);
    check("/usr/bin/node", "node --eval=code", "node", Executable);
    check("/usr/bin/node", "node -r x -p code", "node", Executable);
    check("/usr/bin/bash", "bash /dev/fd/3", "bash", Executable);
    check("/usr/bin/bash", "bash -c ls", "bash", Executable);
    check("/usr/bin/bash", "-bash", "bash", Executable);
    check("/usr/bin/bash", "bash -lc ls", "bash", Executable);
    check("/usr/bin/ruby3.1", "ruby -rsocket -e code", "ruby", Executable);
    check("/usr/bin/perl", "perl -ne print x", "perl", Executable);
    check("/usr/bin/php8.2", "php -r code", "php", Executable);
}

#[test]
fn node_is_named_by_its_script_or_its_folder() {
    check("/usr/bin/node", "node server.js", "server", Script);
    check("/usr/bin/node", "node --require x server.js", "server", Script);
    check("/usr/bin/node", "node -r x --max-old-space-size=99 --inspect /srv/cart.mjs a b", "cart", Script);
    check("/usr/bin/node", "node index.js", "shop", Script);
    check("/usr/bin/node", "node dist/index.js", "dist", Script);
    check("/usr/bin/node", "node /srv/cart/index.js", "cart", Script);
    check("/usr/bin/node", "node .", "shop", Script);
    check("/usr/bin/node", "node /srv/cart/", "cart", Script);
    check("/usr/bin/node", "node app.server.js", "app.server", Script);
    check("/usr/bin/node", "node /usr/bin/npm start", "npm", Script);
    check("/usr/bin/bun", "bun run src/api.ts", "api", Script);
    check("/usr/bin/deno", "deno run --allow-net --config x.json api.ts", "api", Script);
}

#[test]
fn java_is_named_by_jar_or_main_class() {
    let java = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
    check(java, "java -jar shop-service-1.2.3-SNAPSHOT.jar --port 1", "shop-service", Jar);
    check(java, "java -Xmx1g -javaagent:/x.jar=y -jar /app/app.jar", "app", Jar);
    check(java, "java -cp a:b -Dx=y com.acme.shop.Main", "Main", MainClass);
    check(
        java,
        "java -classpath /a --add-opens java.base/java.lang=ALL-UNNAMED com.acme.Cart x",
        "Cart",
        MainClass,
    );
    check(java, "java -p mods -m com.acme/com.acme.cart.Server", "Server", MainClass);
    check(java, "java --module=com.acme/com.acme.cart.Server", "Server", MainClass);
    check(java, "java Hello.java", "Hello", Script);
    check(java, "java @argfile", "java", Executable);
    check(java, "java @argfile 8080", "java", Executable);
    check(java, "java @argfile com.acme.shop.Main", "Main", MainClass);
    check(java, "java @argfile -jar cart-2.0.jar", "cart", Jar);
    check(java, "java -version", "java", Executable);
}

#[test]
fn a_jars_version_goes_and_its_name_stays() {
    for (stem, name) in [
        ("shop", "shop"),
        ("shop-1", "shop"),
        ("shop-1.0.0.RELEASE", "shop"),
        ("shop-1.0-20240102.120000-1", "shop"),
        ("shop-v2.1", "shop"),
        ("shop-SNAPSHOT", "shop"),
        ("shop-1.0-RC2", "shop"),
        ("shop-1.0-all", "shop"),
        ("shop-all", "shop-all"),
        ("shop-1.0-linux-x86_64", "shop"),
        ("log4j-1.2-api-2.17.1", "log4j-1.2-api"),
        ("shop-2-go-1.0", "shop-2-go"),
        ("1.0", "1.0"),
    ] {
        assert_eq!(without_version(stem.as_bytes()), name.as_bytes(), "{stem}");
    }
}

#[test]
fn application_servers_are_named_by_their_application() {
    check(PYTHON, "/usr/bin/python3 /usr/bin/gunicorn -w 4 shop.wsgi:app", "shop.wsgi:app", Application);
    check(PYTHON, "python3 /usr/bin/gunicorn shop:create(key='x') -w4", "shop:create", Application);
    check(
        PYTHON,
        "python3 /usr/bin/gunicorn -b 0.0.0.0:80 --reload --workers=2 -k gthread shop:app",
        "shop:app",
        Application,
    );
    check(PYTHON, "python3 -m gunicorn shop:app", "shop:app", Application);
    check(PYTHON, "python3 /venv/bin/uvicorn main:app --port 80", "main:app", Application);
    check(PYTHON, "python3 -m uvicorn --factory --host 0.0.0.0 main:app", "main:app", Application);
    check(PYTHON, "python3 /usr/bin/gunicorn -c conf.py", "gunicorn", Script);
    let mut titled = facts(PYTHON, "");
    titled.argv = vec![b"gunicorn: worker [shop.wsgi:app]".to_vec()];
    assert_eq!(service_name(&titled), ("shop.wsgi:app".to_owned(), Application));
}

#[test]
fn other_interpreters_are_named_by_their_script() {
    check("/usr/bin/ruby3.1", "ruby app.rb", "app", Script);
    check("/usr/bin/ruby3.1", "ruby -I lib -r x app.rb", "app", Script);
    check("/usr/bin/ruby3.1", "/usr/bin/ruby /usr/bin/puma -C config.rb", "puma", Script);
    check("/usr/bin/php8.2", "php artisan serve", "artisan", Script);
    check("/usr/bin/php8.2", "php -S 0.0.0.0:80 -t public router.php", "router", Script);
    check("/usr/bin/php8.2", "php -f job.php", "job", Script);
    check("/usr/bin/perl", "perl -w -I lib job.pl", "job", Script);
    check("/usr/bin/bash", "bash -x -o pipefail deploy.sh", "deploy", Script);
    check("/usr/bin/dotnet", "dotnet /app/Shop.dll", "Shop", Script);
    check("/usr/bin/dotnet", "dotnet run", "dotnet", Executable);
    check("/usr/bin/lua5.4", "lua -l socket job.lua", "job", Script);
}

#[test]
fn everything_else_is_named_by_its_executable() {
    check("/usr/bin/curl", "curl http://x/", "curl", Executable);
    check("/usr/sbin/apache2", "/usr/sbin/apache2 -k start", "apache2", Executable);
    check("/srv/shop (old)/shop", "./shop", "shop", Executable);
    check("/usr/bin/nc.openbsd", "nc -l 80", "nc", Executable);
    check("/usr/bin/mawk", "awk x", "mawk", Executable);
    check("/usr/bin/shop", "sh", "shop", Executable);
    check("/memfd:shop", "x", "shop", Executable);
}

#[test]
fn a_rewritten_title_is_not_taken_for_arguments() {
    for (executable, title, name) in [
        ("/usr/sbin/nginx", "nginx: worker process", "nginx"),
        ("/usr/sbin/php-fpm8.2", "php-fpm: pool www", "php-fpm8.2"),
        ("/usr/lib/postgresql/15/bin/postgres", "postgres: checkpointer ", "postgres"),
        ("/usr/bin/node", "npm start", "node"),
        ("/usr/bin/ruby3.1", "puma 5.6.4 (tcp://0.0.0.0:3000) [shop]", "ruby3.1"),
    ] {
        let mut facts = facts(executable, "");
        facts.argv = vec![title.as_bytes().to_vec()];
        assert_eq!(service_name(&facts), (name.to_owned(), Executable), "{title}");
    }
}

#[test]
fn busybox_is_named_by_its_applet() {
    check("/bin/busybox", "httpd -f", "httpd", Executable);
    check("/bin/busybox", "busybox wget http://x/", "wget", Executable);
    check("/bin/busybox", "-sh", "sh", Executable);
    check("/bin/busybox", "sh /srv/run.sh", "run", Script);
    check("/bin/busybox", "busybox sh -c x", "sh", Executable);
    check("/bin/busybox", "busybox", "busybox", Executable);
}

#[test]
fn the_exec_record_alone_names_a_process_that_is_gone() {
    check_record("/usr/bin/curl", "curl http://x/", "curl");
    check_record("/usr/bin/python3", "python3 script.py", "script");
    check_record("/usr/bin/python3", "python3 -c pass", "python3");
    check_record("/srv/script.py", "/usr/bin/python3 /srv/script.py x", "script");
    check_record("./script.py", "/usr/bin/python3 ./script.py", "script");
    check_record("/srv/job", "/bin/sh -e /srv/job", "job");
    check_record("/usr/bin/node", "node main.js", "main");
    check_record("/dev/fd/5", "runc init", "runc");
    check_record("/bin/busybox", "wget x", "wget");
    check_record("/usr/bin/wget", "wget x", "wget");
    check_record("", "", UNKNOWN_SERVICE);
}

#[test]
fn what_the_target_declares_comes_first_then_container_then_unit() {
    let mut facts = facts(PYTHON, "python3 app.py");
    facts.unit = Some("shop-unit".to_owned());
    assert_eq!(service_name(&facts), ("shop-unit".to_owned(), Unit));
    facts.container = Some("shop-container".to_owned());
    assert_eq!(service_name(&facts), ("shop-container".to_owned(), Container));
    facts.declared_attribute = Some("shop-attribute".to_owned());
    assert_eq!(service_name(&facts), ("shop-attribute".to_owned(), ResourceAttributes));
    facts.declared_name = Some("shop".to_owned());
    assert_eq!(service_name(&facts), ("shop".to_owned(), Environment));
    facts.declared_name = Some("  ".to_owned());
    assert_eq!(service_name(&facts).1, ResourceAttributes, "an empty value is no value");
}

#[test]
fn nothing_known_still_gives_a_name() {
    assert_eq!(service_name(&ProcessFacts::default()), (UNKNOWN_SERVICE.to_owned(), Nothing));
    let comm = ProcessFacts { comm: b"worker".to_vec(), ..ProcessFacts::default() };
    assert_eq!(service_name(&comm), ("worker".to_owned(), Executable));
    assert_eq!(service_name(&facts("/usr/bin/curl", "")).0, "curl");
}

#[test]
fn a_name_is_harmless_and_bounded_whatever_the_bytes() {
    let mut facts = facts(PYTHON, "python3");
    facts.argv.push(b"/srv/\x1b[31m\xff\nx.py".to_vec());
    assert_eq!(service_name(&facts).0, "\u{FFFD}[31m\u{FFFD}\u{FFFD}x");
    facts.argv[1] = vec![b'a'; 100_000];
    assert_eq!(service_name(&facts).0.len(), MAX_SERVICE_NAME);
}
