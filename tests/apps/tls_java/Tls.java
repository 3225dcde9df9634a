// HTTP/1.1 over TLS with Java's own JSSE, and its clients.
//
//	java Tls.java serve PORT CERTIFICATE KEY [TLSv1.2]
//	java Tls.java client|client-url PORT PREFIX COUNT CONCURRENCY PER_CONNECTION
//
// `client` is java.net.http, `client-url` HttpsURLConnection. The key is PKCS #8 as PEM.

import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsParameters;
import com.sun.net.httpserver.HttpsServer;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocketFactory;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

public class Tls {
    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[1]);
        switch (args[0]) {
            case "serve" -> serve(port, args[2], args[3], args.length > 4 ? args[4] : null);
            default -> ask(args[0], port, args[2], Integer.parseInt(args[3]), Integer.parseInt(args[4]),
                Integer.parseInt(args[5]));
        }
    }

    static void serve(int port, String certificate, String key, String version) throws Exception {
        String pem = Files.readString(Path.of(key)).replaceAll("-----[A-Z ]+-----", "").replaceAll("\\s", "");
        PrivateKey secret = KeyFactory.getInstance("EC")
            .generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem)));
        Certificate shown;
        try (InputStream file = Files.newInputStream(Path.of(certificate))) {
            shown = CertificateFactory.getInstance("X.509").generateCertificate(file);
        }
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        store.setKeyEntry("key", secret, new char[0], new Certificate[] {shown});
        KeyManagerFactory managers = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        managers.init(store, new char[0]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(managers.getKeyManagers(), null, null);
        byte[] body = "x".repeat(200).getBytes(StandardCharsets.US_ASCII);
        HttpsServer server = HttpsServer.create(new InetSocketAddress("127.0.0.1", port), 512);
        server.setHttpsConfigurator(new HttpsConfigurator(context) {
            @Override
            public void configure(HttpsParameters parameters) {
                SSLParameters chosen = context.getDefaultSSLParameters();
                if (version != null) {
                    chosen.setProtocols(new String[] {version});
                }
                parameters.setSSLParameters(chosen);
            }
        });
        server.setExecutor(Executors.newFixedThreadPool(64));
        server.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, body.length);
            try (var out = exchange.getResponseBody()) {
                out.write(body);
            }
        });
        server.start();
    }

    static void ask(String style, int port, String prefix, int count, int concurrency, int perConnection)
            throws Exception {
        AtomicInteger next = new AtomicInteger();
        List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < concurrency; i++) {
            Thread thread = new Thread(() -> {
                try {
                    SSLSocketFactory sockets = null;
                    HttpClient client = null;
                    for (int used = 0;; used++) {
                        int number = next.getAndIncrement();
                        if (number >= count) {
                            return;
                        }
                        if (used % perConnection == 0) {
                            SSLContext context = SSLContext.getInstance("TLS");
                            context.init(null, new TrustManager[] {new Trusting()}, null);
                            // A connection is kept for whoever asks with the same factory.
                            sockets = context.getSocketFactory();
                            client = style.equals("client-url") ? null
                                : HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).sslContext(context).build();
                        }
                        URI uri = URI.create("https://127.0.0.1:" + port + prefix + "-" + number);
                        if (client != null) {
                            client.send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofByteArray());
                        } else {
                            HttpsURLConnection connection = (HttpsURLConnection) uri.toURL().openConnection();
                            connection.setSSLSocketFactory(sockets);
                            try (InputStream in = connection.getInputStream()) {
                                in.readAllBytes();
                            }
                        }
                    }
                } catch (Exception error) {
                    error.printStackTrace();
                    System.exit(1);
                }
            });
            threads.add(thread);
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
    }

    static class Trusting extends X509ExtendedTrustManager {
        @Override public void checkClientTrusted(X509Certificate[] chain, String type) {}
        @Override public void checkServerTrusted(X509Certificate[] chain, String type) {}
        @Override public void checkClientTrusted(X509Certificate[] chain, String type, Socket socket) {}
        @Override public void checkServerTrusted(X509Certificate[] chain, String type, Socket socket) {}
        @Override public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        @Override public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) {}
        @Override public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }
}
