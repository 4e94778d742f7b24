import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.types.Row;

/**
 * A record of the control topic -> a MODELS command for every shard; udfs/record_batch.py reads the bytes.
 *
 * <p>For a while after a record, commands without one follow: a subtask that has no events then says all the same that
 * it has loaded a model.
 */
public class ModelCommands extends AbstractStreamOperator
        implements OneInputStreamOperator, ProcessingTimeService.ProcessingTimeCallback {

    private static final int MODELS = 3;
    private static final long REMIND_EVERY_MS = 250;
    private static final long REMIND_FOR_MS = 120_000;

    private final int[] shardKeys;
    private transient StreamRecord reused;
    private transient long remindUntilMs;
    private transient boolean timerIsSet;

    public ModelCommands(
            Object[] references, StreamTask task, StreamConfig config, Output output, ProcessingTimeService timers)
            throws Exception {
        this.shardKeys = (int[]) references[0];
        this.setup(task, config, output);
        this.setProcessingTimeService(timers);
    }

    public void open() throws Exception {
        super.open();
        reused = new StreamRecord(null);
    }

    public void processElement(StreamRecord element) throws Exception {
        String change = (String) element.getValue();
        send(change == null ? new byte[0] : change.getBytes(StandardCharsets.UTF_8));
        remindUntilMs = getProcessingTimeService().getCurrentProcessingTime() + REMIND_FOR_MS;
        setTimer();
    }

    public void onProcessingTime(long time) throws Exception {
        timerIsSet = false;
        send(new byte[0]);
        if (time < remindUntilMs) {
            setTimer();
        }
    }

    private void setTimer() {
        if (!timerIsSet) {
            timerIsSet = true;
            ProcessingTimeService timers = getProcessingTimeService();
            timers.registerTimer(timers.getCurrentProcessingTime() + REMIND_EVERY_MS, this);
        }
    }

    private void send(byte[] change) {
        byte[] bytes = ByteBuffer.allocate(16 + change.length)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putInt(MODELS)
                .putInt(0)
                .putInt(0)
                .putInt(0)
                .put(change)
                .array();
        for (int shard = 0; shard < shardKeys.length; shard++) {
            output.collect(reused.replace(Row.of(new Object[] {Integer.valueOf(shardKeys[shard]), bytes})));
        }
    }
}
