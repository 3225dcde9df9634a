// A Spring Boot service, with the client that its users mostly take.
//
//     java -cp … service.Application port=N routes=FILE [next=HOST:PORT] framework=FRAMEWORK
//
//   tomcat    @RestController, RestTemplate           async    the same, the work in an @Async method of a pool
//   webflux   Netty, WebClient
//
// It must compile for Java 17 and run on every later one.

package service;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.scheduling.annotation.Async;
import org.springframework.scheduling.annotation.EnableAsync;
import org.springframework.stereotype.Service;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestTemplate;
import org.springframework.web.reactive.function.client.WebClient;
import reactor.core.publisher.Flux;
import reactor.core.publisher.Mono;

@SpringBootApplication
@EnableAsync
public class Application {
    static final class Route {
        long delay;
        int size = 2;
        List<String> calls = new ArrayList<>();
    }

    static final Map<String, Route> ROUTES = new HashMap<>();
    static String base;

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
        String framework = settings.getOrDefault("framework", "tomcat");
        SpringApplication.run(Application.class,
            "--server.port=" + settings.get("port"), "--server.address=127.0.0.1", "--framework=" + framework,
            "--spring.main.web-application-type=" + (framework.equals("webflux") ? "reactive" : "servlet"),
            "--spring.main.banner-mode=off", "--logging.level.root=warn",
            "--server.tomcat.threads.max=64", "--spring.task.execution.pool.core-size=16");
    }

    static Route route(String path) {
        return ROUTES.getOrDefault(path, new Route());
    }

    static byte[] work(Route route, RestTemplate template) {
        try {
            if (route.delay > 0) Thread.sleep(route.delay);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        for (String call : route.calls) template.getForObject(base + call, byte[].class);
        return new byte[route.size];
    }

    @RestController
    @ConditionalOnProperty(name = "framework", havingValue = "tomcat")
    static class Blocking {
        final RestTemplate template = new RestTemplate();

        @GetMapping("/{*path}")
        byte[] get(@PathVariable("path") String path) {
            return work(route(path), template);
        }
    }

    @Service
    @ConditionalOnProperty(name = "framework", havingValue = "async")
    static class Worker {
        final RestTemplate template = new RestTemplate();

        @Async
        public CompletableFuture<byte[]> run(Route route) {
            return CompletableFuture.completedFuture(work(route, template));
        }
    }

    @RestController
    @ConditionalOnProperty(name = "framework", havingValue = "async")
    static class Asynchronous {
        @Autowired
        Worker worker;

        @GetMapping("/{*path}")
        CompletableFuture<byte[]> get(@PathVariable("path") String path) {
            return worker.run(route(path));
        }
    }

    @RestController
    @ConditionalOnProperty(name = "framework", havingValue = "webflux")
    static class Reactive {
        final WebClient client = WebClient.create();

        @GetMapping("/{*path}")
        Mono<byte[]> get(@PathVariable("path") String path) {
            Route route = route(path);
            return Mono.delay(Duration.ofMillis(route.delay))
                .thenMany(Flux.fromIterable(route.calls)
                    .concatMap(call -> client.get().uri(base + call).retrieve().bodyToMono(byte[].class)))
                .then(Mono.fromSupplier(() -> new byte[route.size]));
        }
    }
}
