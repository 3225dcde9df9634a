// A Micronaut service: its Netty server in, work on its blocking executor, its own client out.
//
//     java -cp … service.Service port=N routes=FILE [next=HOST:PORT]
//
// It must compile for Java 17 and run on every later one.

package service;

import io.micronaut.http.MediaType;
import io.micronaut.http.annotation.Controller;
import io.micronaut.http.annotation.Get;
import io.micronaut.http.client.BlockingHttpClient;
import io.micronaut.http.client.HttpClient;
import io.micronaut.http.client.annotation.Client;
import io.micronaut.runtime.Micronaut;
import io.micronaut.scheduling.TaskExecutors;
import io.micronaut.scheduling.annotation.ExecuteOn;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

@Controller
public class Service {
    static final class Route {
        long delay;
        int size = 2;
        List<String> calls = new ArrayList<>();
    }

    static final Map<String, Route> ROUTES = new HashMap<>();
    static String base;
    final BlockingHttpClient client;

    Service(@Client HttpClient client) {
        this.client = client.toBlocking();
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> settings = new HashMap<>();
        for (String argument : arguments) {
            int at = argument.indexOf('=');
            settings.put(argument.substring(0, at), argument.substring(at + 1));
        }
        for (String line : Files.readAllLines(Path.of(settings.get("routes")))) {
            String[] fields = line.split("\t");
            Route route = new Route();
            route.delay = Long.parseLong(fields[1]);
            route.size = Integer.parseInt(fields[2]);
            for (int i = 3; i < fields.length; i++) if (!fields[i].isEmpty()) route.calls.add(fields[i]);
            ROUTES.put(fields[0], route);
        }
        base = "http://" + settings.getOrDefault("next", "127.0.0.1:1");
        Map<String, Object> properties = Map.of(
            "micronaut.server.port", settings.get("port"), "micronaut.server.host", "127.0.0.1",
            "micronaut.http.client.pool.max-concurrent-http1-connections", 200);
        Micronaut.build(new String[0]).classes(Service.class).properties(properties).banner(false).start();
    }

    @Get(value = "/{edge}/{token}", produces = MediaType.APPLICATION_OCTET_STREAM)
    @ExecuteOn(TaskExecutors.BLOCKING)
    byte[] get(String edge, String token) throws InterruptedException {
        Route route = ROUTES.getOrDefault("/" + edge + "/" + token, new Route());
        if (route.delay > 0) Thread.sleep(route.delay);
        for (String call : route.calls) client.retrieve(io.micronaut.http.HttpRequest.GET(base + call), byte[].class);
        return new byte[route.size];
    }
}
