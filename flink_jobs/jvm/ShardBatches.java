import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;

import org.apache.flink.metrics.Counter;
import org.apache.flink.runtime.metrics.TimerGauge;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.data.RowData;
import org.apache.flink.types.Row;
import org.apache.flink.util.MathUtils;

/**
 * Raw Kafka records -> (shard key, one byte array with the records of that shard), before the shuffle.
 *
 * <p>A batch is sent when batch_ms have passed since its first record, when it is full, and before every checkpoint
 * barrier: so there is no state, and nothing is lost or sent twice. While the task is never idle, because there is a
 * backlog, batches may wait ten times as long: fewer, larger ones cost less. udfs/record_batch.py reads the bytes.
 */
public class ShardBatches extends AbstractStreamOperator
        implements OneInputStreamOperator, ProcessingTimeService.ProcessingTimeCallback {

    private static final int MOST_RECORDS = 1000;
    private static final int MOST_BYTES = 1 << 20;
    private static final int LONGEST_STRETCH = 10;

    private final int[] shardKeys;
    private final long batchMs;
    private transient Batch[] batches;
    private transient TimerGauge idle;
    private transient StreamRecord reused;
    private transient boolean timerIsSet;
    private transient long waitMs;
    private transient long lastSentMs;
    private transient long lastIdleMs;

    public ShardBatches(
            Object[] references, StreamTask task, StreamConfig config, Output output, ProcessingTimeService timers)
            throws Exception {
        this.shardKeys = (int[]) references[0];
        this.batchMs = ((Number) references[1]).longValue();
        this.setup(task, config, output);
        this.setProcessingTimeService(timers);
    }

    public void open() throws Exception {
        super.open();
        batches = new Batch[shardKeys.length];
        for (int shard = 0; shard < batches.length; shard++) {
            batches[shard] = new Batch();
        }
        idle = getContainingTask().getEnvironment().getMetricGroup().getIOMetricGroup().getIdleTimeMsPerSecond();
        reused = new StreamRecord(null);
        waitMs = batchMs;
        // an empty batch for every shard: Python opens the model and reads the state before the first record comes
        getProcessingTimeService().registerTimer(getProcessingTimeService().getCurrentProcessingTime(), new WakeUp(this));
    }

    public void processElement(StreamRecord element) throws Exception {
        RowData record = (RowData) element.getValue();
        byte[] key = record.isNullAt(0) ? null : record.getBinary(0);
        int shard = key == null ? 0 : Math.floorMod(MathUtils.murmurHash(Arrays.hashCode(key)), batches.length);
        Batch batch = batches[shard];
        batch.add(
                key,
                record.isNullAt(1) ? null : record.getBinary(1),
                record.getInt(2),
                record.getLong(3),
                record.getTimestamp(4, 3).getMillisecond());
        if (batch.count == MOST_RECORDS || batch.keysEnd + batch.valuesEnd >= MOST_BYTES) {
            send(shard);
        }
        if (!timerIsSet) {
            timerIsSet = true;
            ProcessingTimeService timers = getProcessingTimeService();
            timers.registerTimer(timers.getCurrentProcessingTime() + waitMs, this);
        }
    }

    public void onProcessingTime(long time) throws Exception {
        timerIsSet = false;
        long nowMs = System.currentTimeMillis();
        long idleMs = idle.getAccumulatedCount();
        boolean busy = (idleMs - lastIdleMs) * 10 < nowMs - lastSentMs;
        waitMs = busy ? Math.min(2 * waitMs, LONGEST_STRETCH * batchMs) : batchMs;
        lastIdleMs = idleMs;
        lastSentMs = nowMs;
        sendAll();
    }

    public void prepareSnapshotPreBarrier(long checkpointId) throws Exception {
        sendAll();
    }

    public void finish() throws Exception {
        sendAll();
        super.finish();
    }

    private void sendAll() {
        for (int shard = 0; shard < batches.length; shard++) {
            if (batches[shard].count > 0) {
                send(shard);
            }
        }
    }

    void send(int shard) {
        output.collect(reused.replace(Row.of(new Object[] {Integer.valueOf(shardKeys[shard]), batches[shard].take()})));
    }

    void sendEmpty() {
        for (int shard = 0; shard < batches.length; shard++) {
            send(shard);
        }
    }

    /** Sends what there is of every shard, if only an empty batch. */
    private static final class WakeUp implements ProcessingTimeService.ProcessingTimeCallback {
        private final ShardBatches owner;

        WakeUp(ShardBatches owner) {
            this.owner = owner;
        }

        public void onProcessingTime(long time) {
            owner.sendEmpty();
        }
    }

    /** The records of one shard, column by column. */
    private static final class Batch {
        int count;
        int keysEnd;
        int valuesEnd;
        private long[] offsets = new long[8];
        private long[] timesMs = new long[8];
        private int[] partitions = new int[8];
        private int[] keyLengths = new int[8];
        private int[] valueLengths = new int[8];
        private byte[] keys = new byte[128];
        private byte[] values = new byte[1024];

        void add(byte[] key, byte[] value, int partition, long offset, long timeMs) {
            if (count == offsets.length) {
                offsets = Arrays.copyOf(offsets, 2 * count);
                timesMs = Arrays.copyOf(timesMs, 2 * count);
                partitions = Arrays.copyOf(partitions, 2 * count);
                keyLengths = Arrays.copyOf(keyLengths, 2 * count);
                valueLengths = Arrays.copyOf(valueLengths, 2 * count);
            }
            offsets[count] = offset;
            timesMs[count] = timeMs;
            partitions[count] = partition;
            keyLengths[count] = key == null ? -1 : key.length;
            valueLengths[count] = value == null ? -1 : value.length;
            count++;
            if (key != null) {
                keys = withLine(keys, keysEnd, key);
                keysEnd += key.length + 1;
            }
            if (value != null) {
                values = withLine(values, valuesEnd, value);
                valuesEnd += value.length + 1;
            }
        }

        private static byte[] withLine(byte[] lines, int end, byte[] line) {
            int needed = end + line.length + 1;
            byte[] larger = needed <= lines.length ? lines : Arrays.copyOf(lines, Math.max(needed, 2 * lines.length));
            System.arraycopy(line, 0, larger, end, line.length);
            larger[end + line.length] = '\n';
            return larger;
        }

        /** The bytes of the batch, which is empty afterwards. */
        byte[] take() {
            ByteBuffer bytes = ByteBuffer.allocate(8 + 28 * count + keysEnd + valuesEnd).order(ByteOrder.LITTLE_ENDIAN);
            bytes.putInt(count).putInt(keysEnd);
            for (int i = 0; i < count; i++) {
                bytes.putLong(offsets[i]);
            }
            for (int i = 0; i < count; i++) {
                bytes.putLong(timesMs[i]);
            }
            for (int i = 0; i < count; i++) {
                bytes.putInt(partitions[i]);
            }
            for (int i = 0; i < count; i++) {
                bytes.putInt(keyLengths[i]);
            }
            for (int i = 0; i < count; i++) {
                bytes.putInt(valueLengths[i]);
            }
            bytes.put(keys, 0, keysEnd).put(values, 0, valuesEnd);
            count = 0;
            keysEnd = 0;
            valuesEnd = 0;
            return bytes.array();
        }
    }
}
