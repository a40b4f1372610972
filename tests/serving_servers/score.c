/* Scores with SavedModels through TensorFlow's C API alone: no Python, no tf_dlrm.
 *
 * Standard input holds commands of words, standard output one line for each answer.
 *
 *   load FOLDER                           loads a SavedModel in place of the one before; answered by
 *                                         `loaded RESIDENT_KB`
 *   feed NAME TYPE RANK SIZES... VALUES... gives a tensor of the graph to the next run; TYPE is
 *                                         float, int64 or string, whose values are an x and
 *                                         hexadecimal digits
 *   run NAME                              computes a tensor of floats and forgets what was fed;
 *                                         answered by `ok VALUES...` or `error MESSAGE`
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

enum { MOST = 64 };

static TF_Graph *graph;
static TF_Session *session;
static TF_Status *status;
static char *names[MOST];
static TF_Tensor *tensors[MOST];
static int count;

static void give_up(const char *why) {
    fprintf(stderr, "%s\n", why);
    exit(2);
}

static char *word(void) {
    char *text;
    if (scanf("%ms", &text) != 1) give_up("The input ends within a command.");
    return text;
}

static int64_t whole_number(void) {
    int64_t number;
    if (scanf("%" SCNd64, &number) != 1) give_up("The input is no whole number where one is due.");
    return number;
}

static long resident_kb(void) {
    long kb = 0;
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmRSS: %ld", &kb);
    if (file) fclose(file);
    return kb;
}

static void unload(void) {
    if (!session) return;
    TF_CloseSession(session, status);
    TF_DeleteSession(session, status);
    TF_DeleteGraph(graph);
}

static void load(void) {
    const char *tags[] = {"serve"};
    char *folder = word();
    TF_SessionOptions *options = TF_NewSessionOptions();
    unload();
    graph = TF_NewGraph();
    session = TF_LoadSessionFromSavedModel(options, NULL, folder, tags, 1, graph, NULL, status);
    if (TF_GetCode(status) != TF_OK) give_up(TF_Message(status));
    TF_DeleteSessionOptions(options);
    free(folder);
    printf("loaded %ld\n", resident_kb());
}

static void read_text(TF_TString *text) {
    char *digits = word();
    size_t length = strlen(digits) / 2; /* without the x */
    char *bytes = malloc(length + 1);
    for (size_t k = 0; k < length; k++) {
        const char byte[] = {digits[2 * k + 1], digits[2 * k + 2], 0};
        bytes[k] = (char)strtol(byte, NULL, 16);
    }
    TF_StringInit(text);
    TF_StringCopy(text, bytes, length);
    free(bytes);
    free(digits);
}

static void feed(void) {
    char *name = word(), *type = word();
    int rank = (int)whole_number();
    int64_t sizes[8], total = 1;
    TF_DataType dtype = !strcmp(type, "float")    ? TF_FLOAT
                        : !strcmp(type, "int64")  ? TF_INT64
                        : !strcmp(type, "string") ? TF_STRING
                                                  : 0;
    if (!dtype || rank < 0 || rank > 8 || count == MOST) give_up("No such tensor can be fed.");
    for (int k = 0; k < rank; k++) total *= sizes[k] = whole_number();
    size_t size = dtype == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(dtype);
    TF_Tensor *tensor = TF_AllocateTensor(dtype, sizes, rank, total * size);
    void *data = TF_TensorData(tensor);
    for (int64_t k = 0; k < total; k++) {
        if (dtype == TF_STRING) read_text((TF_TString *)data + k);
        if (dtype == TF_INT64) ((int64_t *)data)[k] = whole_number();
        if (dtype == TF_FLOAT && scanf("%f", (float *)data + k) != 1) give_up("No number.");
    }
    free(type);
    names[count] = name;
    tensors[count++] = tensor;
}

/* Returns the tensor of the graph whose name is `operation:index`. */
static TF_Output output(char *name) {
    char *colon = strchr(name, ':');
    if (!colon) give_up("A tensor's name has a colon and a number.");
    *colon = 0;
    TF_Output found = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
    if (!found.oper) give_up("The graph has no such tensor.");
    return found;
}

static void run(void) {
    TF_Output inputs[MOST];
    char *name = word();
    TF_Output wanted = output(name);
    TF_Tensor *answer = NULL;
    for (int k = 0; k < count; k++) inputs[k] = output(names[k]);
    TF_SessionRun(session, NULL, inputs, tensors, count, &wanted, &answer, 1, NULL, 0, NULL, status);
    if (TF_GetCode(status) == TF_OK) {
        printf("ok");
        for (int64_t k = 0; k < TF_TensorElementCount(answer); k++)
            printf(" %.9g", ((float *)TF_TensorData(answer))[k]);
        TF_DeleteTensor(answer);
    } else {
        printf("error ");
        for (const char *c = TF_Message(status); *c; c++) putchar(*c == '\n' ? ' ' : *c);
    }
    putchar('\n');
    while (count) {
        TF_Tensor *tensor = tensors[--count];
        if (TF_TensorType(tensor) == TF_STRING)
            for (int64_t k = 0; k < TF_TensorElementCount(tensor); k++)
                TF_StringDealloc((TF_TString *)TF_TensorData(tensor) + k);
        TF_DeleteTensor(tensor);
        free(names[count]);
    }
    free(name);
}

int main(void) {
    char *command;
    status = TF_NewStatus();
    while (scanf("%ms", &command) == 1) {
        if (!strcmp(command, "load")) {
            load();
        } else if (!session) {
            give_up("The first command is load.");
        } else if (!strcmp(command, "feed")) {
            feed();
        } else if (!strcmp(command, "run")) {
            run();
        } else {
            give_up("There is no such command.");
        }
        free(command);
        fflush(stdout);
    }
    unload();
    TF_DeleteStatus(status);
    return 0;
}
