// A JVM service: the JDK's HttpServer in, HttpURLConnection (keep-alive, blocking) out. It must compile for Java 11
// and run on every later one.
//
//     java Service port=N routes=FILE [next=HOST:PORT] [style=STYLE] [background=FILE every=MS]
//
// `style` is who does the work of a request (wait, call, call):
//   thread     the server's thread                          submit     a pool, which answers too
//   get        a pool; the server's thread waits for it     stages     CompletableFuture over two pools
//   scheduled  a scheduler with few threads                 forkjoin   the common pool
//   virtual    a virtual thread per request (21+)           client     the server's thread by java.net.http.HttpClient
//   joins      the common pool, whose thread waits for half of its work and helps others meanwhile
//   churn      as submit, while the JVM collects, unloads classes, invalidates code, and the pool is replaced

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

public class Service {
    static final class Route {
        long delay;
        int size = 2;
        List<String> calls = new ArrayList<>();
    }

    static final Map<String, Route> ROUTES = new HashMap<>();
    static final Map<String, String> SETTINGS = new HashMap<>();
    static final byte[] FILLER = new byte[4096];
    static String base;
    static HttpClient client;

    public static void main(String[] arguments) throws Exception {
        for (String argument : arguments) {
            int at = argument.indexOf('=');
            SETTINGS.put(argument.substring(0, at), argument.substring(at + 1));
        }
        System.setProperty("sun.net.httpserver.nodelay", "true");
        System.setProperty("sun.net.httpserver.maxIdleConnections", "1000");
        System.setProperty("http.maxConnections", "200");
        java.util.Arrays.fill(FILLER, (byte) '.');
        if (SETTINGS.containsKey("routes")) {
            for (String line : Files.readAllLines(Path.of(SETTINGS.get("routes")))) {
                String[] fields = line.split("\t");
                Route route = new Route();
                route.delay = Long.parseLong(fields[1]);
                route.size = Integer.parseInt(fields[2]);
                for (int i = 3; i < fields.length; i++) if (!fields[i].isEmpty()) route.calls.add(fields[i]);
                ROUTES.put(fields[0], route);
            }
        }
        base = "http://" + SETTINGS.getOrDefault("next", "127.0.0.1:1");
        HttpServer server = HttpServer.create(
            new InetSocketAddress("127.0.0.1", Integer.parseInt(SETTINGS.get("port"))), 256);
        String style = SETTINGS.getOrDefault("style", "thread");
        ExecutorService serving = style.equals("virtual") ? virtual() : Executors.newFixedThreadPool(64);
        server.setExecutor(serving);
        server.createContext("/", exchange -> serve(style, exchange));
        if (style.equals("client")) client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        server.start();
        if (style.equals("churn")) churn();
        if (SETTINGS.containsKey("background")) {
            List<String> paths = Files.readAllLines(Path.of(SETTINGS.get("background")));
            long every = Long.parseLong(SETTINGS.getOrDefault("every", "20"));
            Thread timer = new Thread(() -> {
                for (String path : paths) {
                    pause(every);
                    if (!path.isEmpty()) call(path);
                }
            });
            timer.setDaemon(true);
            timer.start();
        }
    }

    static volatile ExecutorService POOL = Executors.newFixedThreadPool(16);
    static final ExecutorService SECOND = Executors.newFixedThreadPool(16);
    static final ScheduledExecutorService SCHEDULER = Executors.newScheduledThreadPool(4);

    /// Each second: a class of its own loader is loaded, used until it is hot, and dropped; what was compiled for the classes
    /// before it is not valid any more. Every two a full collection unloads it, every five the pool's threads end.
    static void churn() {
        Thread churning = new Thread(() -> {
            for (int round = 1; ; round++) {
                pause(1000);
                Class<?>[] faces = { java.util.function.IntUnaryOperator.class };
                ClassLoader loader = new ClassLoader(Service.class.getClassLoader()) { };
                var operator = (java.util.function.IntUnaryOperator) java.lang.reflect.Proxy.newProxyInstance(
                    loader, faces, (proxy, method, values) -> (Integer) values[0] + 1);
                int sum = 0;
                for (int n = 0; n < 20000; n++) sum += operator.applyAsInt(n);
                if (sum == 42) System.out.println(sum);
                if (round % 2 == 0) System.gc();
                if (round % 5 == 0) {
                    ExecutorService before = POOL;
                    POOL = Executors.newFixedThreadPool(16);
                    pause(100);
                    before.shutdown();
                }
            }
        });
        churning.setDaemon(true);
        churning.start();
    }

    static ExecutorService virtual() throws Exception {
        return (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
    }

    static void serve(String style, HttpExchange exchange) throws IOException {
        Route route = ROUTES.getOrDefault(exchange.getRequestURI().getPath(), new Route());
        try (InputStream body = exchange.getRequestBody()) {
            body.readAllBytes();
        }
        try {
            switch (style) {
                case "churn":
                case "submit":
                    POOL.submit(() -> { work(route, route.calls); answer(exchange, route); });
                    break;
                case "get":
                    POOL.submit(() -> work(route, route.calls)).get();
                    answer(exchange, route);
                    break;
                case "stages": {
                    int half = (route.calls.size() + 1) / 2;
                    CompletableFuture
                        .supplyAsync(() -> { work(route, route.calls.subList(0, half)); return route; }, POOL)
                        .thenApplyAsync(r -> { work(r, r.calls.subList(half, r.calls.size())); return r; }, SECOND)
                        .thenAcceptAsync(r -> answer(exchange, r), SECOND);
                    break;
                }
                case "scheduled":
                    SCHEDULER.schedule(() -> { work(route, route.calls); answer(exchange, route); },
                        route.delay, TimeUnit.MILLISECONDS);
                    break;
                case "forkjoin":
                    CompletableFuture.runAsync(() -> { work(route, route.calls); answer(exchange, route); });
                    break;
                case "joins": {
                    int half = (route.calls.size() + 1) / 2;
                    CompletableFuture.runAsync(() -> {
                        work(route, route.calls.subList(0, half));
                        CompletableFuture.runAsync(() -> work(route, route.calls.subList(half, route.calls.size()))).join();
                        answer(exchange, route);
                    });
                    break;
                }
                default:
                    work(route, route.calls);
                    answer(exchange, route);
            }
        } catch (Exception failure) {
            throw new IOException(failure);
        }
    }

    static void work(Route route, List<String> calls) {
        pause(route.delay);
        for (String path : calls) call(path);
    }

    static void pause(long milliseconds) {
        try {
            if (milliseconds > 0) Thread.sleep(milliseconds);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    static void call(String path) {
        try {
            if (client != null) {
                client.send(HttpRequest.newBuilder(URI.create(base + path)).build(),
                    HttpResponse.BodyHandlers.ofByteArray());
                return;
            }
            HttpURLConnection connection = (HttpURLConnection) new URL(base + path).openConnection();
            try (InputStream body = connection.getInputStream()) {
                body.readAllBytes();
            }
        } catch (Exception failure) {
            failure.printStackTrace();
        }
    }

    static void answer(HttpExchange exchange, Route route) {
        try {
            exchange.sendResponseHeaders(200, route.size);
            exchange.getResponseBody().write(FILLER, 0, route.size);
            exchange.close();
        } catch (IOException failure) {
            failure.printStackTrace();
        }
    }
}
