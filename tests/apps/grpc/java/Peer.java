// gRPC peer: grpc-java on its shaded Netty. What the arguments mean and what a body asks for: tests/src/grpc/calls.rs.
// No generated code: bytes in, bytes out, any method name. It must never know that it is traced.

import io.grpc.*;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.*;
import java.io.*;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicInteger;

public class Peer {
    static final MethodDescriptor.Marshaller<byte[]> SAME = new MethodDescriptor.Marshaller<>() {
        public InputStream stream(byte[] bytes) { return new ByteArrayInputStream(bytes); }
        public byte[] parse(InputStream in) {
            try { return in.readAllBytes(); } catch (IOException e) { throw new UncheckedIOException(e); }
        }
    };
    static final Random RANDOM = new Random();

    static Map<String, String> fields(String text) {
        Map<String, String> all = new HashMap<>();
        for (String word : text.split(" ")) {
            int at = word.indexOf('=');
            if (at > 0) all.put(word.substring(0, at), word.substring(at + 1));
        }
        return all;
    }

    static Map<String, String> wished(byte[] body) {
        return fields(new String(body, StandardCharsets.ISO_8859_1).split("\n", 2)[0]);
    }

    static int number(Map<String, String> wish, String key, int otherwise) {
        return wish.containsKey(key) ? Integer.parseInt(wish.get(key)) : otherwise;
    }

    static void sleep(int ms) {
        try { if (ms > 0) Thread.sleep(ms); } catch (InterruptedException e) { Thread.currentThread().interrupt(); }
    }

    static void keys(Metadata all, String spec, String prefix) {
        String[] parts = spec.split("x");
        for (int n = 0; n < Integer.parseInt(parts[0]); n++) {
            String value = String.valueOf((char) ('a' + n % 26)).repeat(Integer.parseInt(parts[1]));
            all.put(Metadata.Key.of(prefix + "-" + n, Metadata.ASCII_STRING_MARSHALLER), value);
        }
    }

    static byte[] message(Map<String, String> wish) {
        byte[] bytes = new byte[number(wish, "z", 20)];
        Arrays.fill(bytes, (byte) 'x');
        return bytes;
    }

    static MethodDescriptor.MethodType type(String path) {
        String last = path.substring(path.lastIndexOf('/') + 1);
        if (last.startsWith("Server")) return MethodDescriptor.MethodType.SERVER_STREAMING;
        if (last.startsWith("Client")) return MethodDescriptor.MethodType.CLIENT_STREAMING;
        if (last.startsWith("Both")) return MethodDescriptor.MethodType.BIDI_STREAMING;
        return MethodDescriptor.MethodType.UNARY;
    }

    static MethodDescriptor<byte[], byte[]> method(String path) {
        return MethodDescriptor.<byte[], byte[]>newBuilder(SAME, SAME).setType(type(path)).setFullMethodName(path.substring(1)).build();
    }

    static final ExecutorService POOL = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        return thread;
    });

    // One handler for all kinds: collects what comes, answers as the first message asks.
    static ServerCall.Listener<byte[]> handle(ServerCall<byte[], byte[]> call, Metadata headers) {
        MethodDescriptor.MethodType type = call.getMethodDescriptor().getType();
        call.request(1 << 20);
        boolean both = type == MethodDescriptor.MethodType.BIDI_STREAMING;
        return new ServerCall.Listener<byte[]>() {
            Map<String, String> wish;
            boolean headersSent;

            void headers() {
                if (headersSent) return;
                headersSent = true;
                Metadata all = new Metadata();
                if (wish != null && wish.containsKey("h")) keys(all, wish.get("h"), "x-reply");
                call.sendHeaders(all);
            }

            public void onMessage(byte[] bytes) {
                if (wish == null) wish = wished(bytes);
                if (both) {
                    headers();
                    call.sendMessage(message(wish));
                }
            }

            public void onHalfClose() {
                if (wish == null) wish = new HashMap<>();
                POOL.execute(() -> {
                    if (type == MethodDescriptor.MethodType.SERVER_STREAMING) {
                        headers();
                        for (int n = 0; n < number(wish, "n", 1) && !call.isCancelled(); n++) {
                            while (!call.isReady() && !call.isCancelled()) sleep(1);
                            call.sendMessage(message(wish));
                            sleep(number(wish, "i", 0));
                        }
                    }
                    if (wish.containsKey("h")) headers();
                    sleep(number(wish, "d", 0));
                    if (call.isCancelled()) return;
                    int code = number(wish, "s", 0);
                    if (code != 0) {
                        call.close(Status.fromCodeValue(code).withDescription("no such thing"), new Metadata());
                        return;
                    }
                    headers();
                    if (!both && type != MethodDescriptor.MethodType.SERVER_STREAMING) call.sendMessage(message(wish));
                    call.close(Status.OK, new Metadata());
                });
            }
        };
    }

    static void serve(Map<String, String> given) throws Exception {
        HandlerRegistry any = new HandlerRegistry() {
            public ServerMethodDefinition<?, ?> lookupMethod(String name, String authority) {
                return ServerMethodDefinition.create(method("/" + name), Peer::handle);
            }
        };
        Server server = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", number(given, "port", 0)))
            .fallbackHandlerRegistry(any).executor(POOL).maxInboundMetadataSize(1 << 20).maxInboundMessageSize(1 << 30)
            .build().start();
        if (given.containsKey("stop")) {
            while (!Files.exists(Path.of(given.get("stop")))) sleep(5);
            server.shutdown();
        }
        server.awaitTermination();
    }

    static Metadata metadata(Map<String, String> wish) {
        Metadata all = new Metadata();
        if (wish.containsKey("m")) keys(all, wish.get("m"), "x-key");
        byte[] random = new byte[40];
        RANDOM.nextBytes(random);
        if (wish.containsKey("b")) all.put(Metadata.Key.of("x-data-bin", Metadata.BINARY_BYTE_MARSHALLER), random);
        if (wish.containsKey("r")) {
            String id = String.format("%016x%016x", RANDOM.nextLong(), RANDOM.nextLong());
            all.put(Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER), id);
        }
        return all;
    }

    // Runs one call to its end: { status, messages received }.
    static int[] one(Channel channel, String path, String text, Map<String, String> wish) throws Exception {
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        if (wish.containsKey("z")) body = (text + "\n" + "y".repeat(number(wish, "z", 0))).getBytes(StandardCharsets.UTF_8);
        CallOptions options = CallOptions.DEFAULT;
        if (wish.containsKey("t")) options = options.withDeadlineAfter(number(wish, "t", 0), TimeUnit.MILLISECONDS);
        ClientCall<byte[], byte[]> call = channel.newCall(method(path), options);
        CompletableFuture<Status> over = new CompletableFuture<>();
        AtomicInteger received = new AtomicInteger();
        call.start(new ClientCall.Listener<byte[]>() {
            public void onMessage(byte[] bytes) { received.incrementAndGet(); }
            public void onClose(Status status, Metadata trailers) { over.complete(status); }
        }, metadata(wish));
        call.request(1 << 20);
        if (wish.containsKey("c")) {
            CompletableFuture.delayedExecutor(number(wish, "c", 0), TimeUnit.MILLISECONDS, POOL).execute(() -> call.cancel("cancelled", null));
        }
        int messages = type(path).clientSendsOneMessage() ? 1 : number(wish, "n", 1);
        for (int n = 0; n < messages; n++) {
            if (n > 0) sleep(number(wish, "i", 0));
            try { call.sendMessage(body); } catch (IllegalStateException e) { break; }
        }
        try { call.halfClose(); } catch (IllegalStateException e) { /* cancelled before */ }
        return new int[] { over.get().getCode().value(), received.get() };
    }

    static void drive(Map<String, String> given) throws Exception {
        List<String> lines = Files.readAllLines(Path.of(given.get("calls")));
        BufferedWriter log = Files.newBufferedWriter(Path.of(given.get("log")));
        int connections = number(given, "connections", 1);
        AtomicInteger reached = new AtomicInteger();
        List<Thread> threads = new ArrayList<>();
        for (int each = 0; each < connections; each++) {
            int id = each;
            Thread thread = new Thread(() -> {
                try { connection(id, given, lines, log, connections, reached); } catch (Exception e) { e.printStackTrace(); System.exit(1); }
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) thread.join();
        log.close();
    }

    static long now() {
        java.time.Instant now = java.time.Instant.now();
        return now.getEpochSecond() * 1_000_000_000L + now.getNano();
    }

    static void connection(int id, Map<String, String> given, List<String> lines, BufferedWriter log, int connections,
            AtomicInteger reached) throws Exception {
        ManagedChannel channel = NettyChannelBuilder.forTarget(given.get("to")).usePlaintext()
            .maxInboundMetadataSize(1 << 20).maxInboundMessageSize(1 << 30).build();
        int concurrency = number(given, "concurrency", 1);
        Semaphore free = new Semaphore(concurrency);
        for (int index = 0; index < lines.size(); index++) {
            String[] parts = lines.get(index).split("\t", -1);
            if (parts[0].equals("wait")) {
                free.acquire(concurrency);
                free.release(concurrency);
                if (reached.incrementAndGet() % connections == 0) Files.writeString(Path.of(parts[1] + ".reached"), "");
                while (!Files.exists(Path.of(parts[1]))) sleep(5);
            } else if (parts.length == 4) {
                free.acquire();
                int number = index;
                Runnable task = () -> {
                    try {
                        long began = now();
                        int[] end = one(channel, parts[0], parts[2], fields(parts[3]));
                        String line = id + "\t" + number + "\t" + parts[0] + "\t" + began + "\t" + now() + "\t" + end[0] + "\t" + end[1] + "\n";
                        synchronized (log) { log.write(line); }
                    } catch (Exception e) {
                        e.printStackTrace();
                    } finally {
                        free.release();
                    }
                };
                if (concurrency == 1) task.run(); else POOL.execute(task);
            }
        }
        free.acquire(concurrency);
        channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> given = fields(String.join(" ", Arrays.copyOfRange(arguments, 1, arguments.length)));
        if (arguments[0].equals("server")) serve(given); else drive(given);
        System.exit(0);
    }
}
