package dev.stepwell;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;

/** A way to the service that can be cut. */
final class Link implements AutoCloseable {
    private final ServerSocket listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
    private final int port;
    private final List<Socket> open = new ArrayList<>();
    private boolean isDown;
    private volatile boolean isMuffled;

    Link(int port) throws IOException {
        this.port = port;
        begin(this::serve);
    }

    Connections connections() {
        return Connections.to("127.0.0.1:" + listener.getLocalPort());
    }

    /** Loses what the service says from now on, until the link is {@link #cut}. */
    void muffle() {
        isMuffled = true;
    }

    /** Ends all connections that are open; later ones are let through. */
    synchronized void cut() {
        isMuffled = false;
        open.forEach(Link::end);
        open.clear();
    }

    /** Ends all connections, and lets none through until {@link #mend}. */
    synchronized void breakDown() {
        isDown = true;
        cut();
    }

    synchronized void mend() {
        isDown = false;
    }

    @Override
    public void close() throws IOException {
        listener.close();
        cut();
    }

    private void serve() {
        try {
            while (true) {
                Socket near = listener.accept();
                join(near);
            }
        } catch (IOException closed) {
            // The test is over.
        }
    }

    private synchronized void join(Socket near) {
        open.add(near);
        if (isDown) {
            cut();
            return;
        }
        try {
            Socket far = new Socket(InetAddress.getLoopbackAddress(), port);
            open.add(far);
            begin(() -> copy(near, far, false));
            begin(() -> copy(far, near, true));
        } catch (IOException refused) {
            end(near);
        }
    }

    private void copy(Socket from, Socket to, boolean isAnswer) {
        byte[] bytes = new byte[8192];
        try {
            for (int count = from.getInputStream().read(bytes);
                    count >= 0;
                    count = from.getInputStream().read(bytes)) {
                if (!(isAnswer && isMuffled)) {
                    to.getOutputStream().write(bytes, 0, count);
                }
            }
        } catch (IOException cut) {
            // Both ends hear of it.
        }
        end(from);
        end(to);
    }

    private static void end(Socket socket) {
        try {
            socket.close();
        } catch (IOException closed) {
            // It is what was wanted.
        }
    }

    private static void begin(Runnable work) {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        thread.start();
    }
}
