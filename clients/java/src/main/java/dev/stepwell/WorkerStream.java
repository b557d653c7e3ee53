package dev.stepwell;

import dev.stepwell.v1.ConnectRequest;
import dev.stepwell.v1.ConnectResponse;
import dev.stepwell.v1.WorkerServiceGrpc;
import io.grpc.ManagedChannel;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;

/** One stream of a session, over a connection of its own. Its fields are guarded by the session's monitor. */
final class WorkerStream implements ClientResponseObserver<ConnectRequest, ConnectResponse> {
    private final Session session;
    private final ManagedChannel channel;
    private ClientCallStreamObserver<ConnectRequest> requests;

    /** Why it ended; null while it stands. */
    StepwellException end;
    /** When the service was last heard, in milliseconds of {@link Session#now}. */
    long heardAt = Session.now();
    /** When something was last said. */
    long saidAt = Session.now();

    WorkerStream(Session session, ManagedChannel channel) {
        this.session = session;
        this.channel = channel;
    }

    /** Connects and says hello; the session hears what comes of it. */
    void open(ConnectRequest hello) {
        WorkerServiceGrpc.newStub(channel).connect(this);
        requests.onNext(hello);
    }

    @Override
    public void beforeStart(ClientCallStreamObserver<ConnectRequest> requests) {
        this.requests = requests;
        requests.setOnReadyHandler(session::flush);
    }

    @Override
    public void onNext(ConnectResponse message) {
        session.received(this, message);
    }

    @Override
    public void onError(Throwable thrown) {
        session.ended(this, StepwellException.of(thrown));
    }

    @Override
    public void onCompleted() {
        session.ended(this, StepwellException.unavailable("the service ended the stream"));
    }

    /** Writes what there is to say as long as the connection takes it; the rest gathers until it does again. */
    void write(Outbox outbox) {
        while (end == null && requests.isReady()) {
            ConnectRequest message = outbox.take();
            if (message == null) {
                return;
            }
            requests.onNext(message);
            saidAt = Session.now();
        }
    }

    void halfClose() {
        if (end == null) {
            requests.onCompleted();
        }
    }

    void end(StepwellException why) {
        if (end == null) {
            end = why;
        }
    }

    void close() {
        end(StepwellException.unavailable("the stream was left"));
        channel.shutdownNow();
    }
}
