package dev.stepwell;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/**
 * Makes connections to a service: one for a client, one for each stream of a worker. Any other supplier of channels does
 * as well, if they take in messages of 16 MiB and leave repeats to this library.
 */
public final class Connections implements Supplier<ManagedChannel> {
    static final String SDK = "stepwell-java/0.1.0";

    private static final int MESSAGE_BYTES = 16 << 20;
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final String target;
    private final ChannelCredentials credentials;
    private final String apiKey;

    private Connections(String target, ChannelCredentials credentials, String apiKey) {
        this.target = target;
        this.credentials = credentials;
        this.apiKey = apiKey;
    }

    /**
     * Connections without encryption, with the key of the environment's {@code STEPWELL_API_KEY} if it has one.
     *
     * @param target such as {@code 127.0.0.1:7233} or {@code dns:///stepwell-headless:7233}; of several addresses all are
     *     used in turn
     */
    public static Connections to(String target) {
        return new Connections(target, InsecureChannelCredentials.create(), System.getenv("STEPWELL_API_KEY"));
    }

    /** The same with encryption, such as by {@link io.grpc.TlsChannelCredentials}. */
    public Connections withCredentials(ChannelCredentials credentials) {
        return new Connections(target, credentials, apiKey);
    }

    /** The same with a key; null for none. */
    public Connections withApiKey(String apiKey) {
        return new Connections(target, credentials, apiKey);
    }

    @Override
    public ManagedChannel get() {
        ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(target, credentials)
                .maxInboundMessageSize(MESSAGE_BYTES)
                .keepAliveTime(1, TimeUnit.MINUTES)
                .keepAliveTimeout(20, TimeUnit.SECONDS)
                .defaultLoadBalancingPolicy("round_robin")
                // gRPC's own repeats know nothing of reasons.
                .disableRetry()
                .userAgent(SDK);
        if (apiKey != null && !apiKey.isEmpty()) {
            Metadata headers = new Metadata();
            headers.put(AUTHORIZATION, "Bearer " + apiKey);
            builder.intercept(MetadataUtils.newAttachHeadersInterceptor(headers));
        }
        return builder.build();
    }
}
