import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Registers a service, finds another one, and calls it through the mesh: with what the JDK has, by the API of Consul.
 *
 * <p>java Client.java NAME ADDRESS PORT PEER
 */
public final class Client {
    private static final String REGISTRY = "http://127.0.0.1:15000/v1/";
    private static final HttpClient HTTP = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)
            .connectTimeout(Duration.ofSeconds(5))
            .build();
    private static final Pattern ID = Pattern.compile("\"ID\":\"([^\"]+)\"");
    private static final Pattern VIRTUAL =
            Pattern.compile("\"virtual\":\\{\"Address\":\"([^\"]+)\",\"Port\":(\\d+)}");

    private final String name;
    private final String address;
    private final int port;
    private volatile boolean isLeaving;

    private Client(String name, String address, int port) {
        this.name = name;
        this.address = address;
        this.port = port;
    }

    public static void main(String[] arguments) throws Exception {
        Client client = new Client(arguments[0], arguments[1], Integer.parseInt(arguments[2]));
        client.serve();
        client.register();
        Thread heart = new Thread(client::beat);
        heart.setDaemon(true);
        heart.start();
        Runtime.getRuntime().addShutdownHook(new Thread(client::leave));
        String url = find(arguments[3]);
        while (true) {
            try {
                say("answer: " + get(url, Duration.ofSeconds(5)).body());
            } catch (IOException error) {
                say("call failed: " + error);
            }
            Thread.sleep(200);
        }
    }

    private void serve() throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(address, port), 0);
        byte[] body = ("this is " + name).getBytes(StandardCharsets.UTF_8);
        server.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }

    private void register() throws IOException, InterruptedException {
        String body = String.format(
                "{\"Name\": \"%s\", \"ID\": \"%s-1\", \"Address\": \"%s\", \"Port\": %d, \"Tags\": [\"example\"], "
                        + "\"Meta\": {\"language\": \"java\"}, "
                        + "\"Check\": {\"TTL\": \"5s\", \"DeregisterCriticalServiceAfter\": \"1m\"}}",
                name, name, address, port);
        HttpResponse<String> answer = put("agent/service/register", body);
        if (answer.statusCode() != 200) {
            throw new IOException(answer.body());
        }
        say("registered " + name + "-1");
    }

    /** Says that all is well, also while the registry is away for a moment; registers anew should it have forgotten. */
    private void beat() {
        while (true) {
            try {
                HttpResponse<String> answer = put("agent/check/pass/service:" + name + "-1?note=well", "");
                if (answer.statusCode() == 404 && !isLeaving) {
                    register();
                }
                Thread.sleep(1000);
            } catch (IOException error) {
                say("registry: " + error);
                pause();
            } catch (InterruptedException end) {
                return;
            }
        }
    }

    /** Waits until the peer is well; a blocking query answers as soon as that changes. */
    private static String find(String peer) throws InterruptedException {
        String index = "0";
        while (true) {
            try {
                String path = REGISTRY + "health/service/" + peer + "?passing=true&wait=5s&index=" + index;
                HttpResponse<String> answer = get(path, Duration.ofSeconds(10));
                index = answer.headers().firstValue("X-Consul-Index").orElse("0");
                Matcher virtual = VIRTUAL.matcher(answer.body());
                if (virtual.find()) {
                    Matcher id = ID.matcher(answer.body().substring(answer.body().indexOf("\"Service\":")));
                    say("found " + (id.find() ? id.group(1) : peer));
                    return "http://" + virtual.group(1) + ":" + virtual.group(2) + "/";
                }
            } catch (IOException error) {
                say("registry: " + error);
                Thread.sleep(1000);
            }
        }
    }

    private void leave() {
        isLeaving = true;
        try {
            put("agent/service/deregister/" + name + "-1", "");
            say("deregistered");
        } catch (IOException error) {
            say("registry: " + error);
        } catch (InterruptedException end) {
            Thread.currentThread().interrupt();
        }
    }

    private static HttpResponse<String> get(String url, Duration limit) throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).timeout(limit).build();
        return HTTP.send(request, HttpResponse.BodyHandlers.ofString());
    }

    private static HttpResponse<String> put(String path, String body) throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(REGISTRY + path))
                .timeout(Duration.ofSeconds(5))
                .PUT(HttpRequest.BodyPublishers.ofString(body))
                .build();
        return HTTP.send(request, HttpResponse.BodyHandlers.ofString());
    }

    private static void pause() {
        try {
            Thread.sleep(1000);
        } catch (InterruptedException end) {
            Thread.currentThread().interrupt();
        }
    }

    private static void say(String words) {
        System.out.println(words);
    }
}
